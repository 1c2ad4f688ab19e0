//! The order of delivery.

use nix_compat::store_path::StorePath;

/// The indices of outputs in an order with references first.
///
/// # Errors
///
/// Two indices of a cycle. Outputs in a cycle have no such order, and a store could never delete
/// them.
pub(crate) fn references_first<R>(outputs: &[(&StorePath, R)]) -> Result<Vec<usize>, (usize, usize)>
where
    R: Fn(&StorePath) -> bool,
{
    let mut order: Vec<usize> = Vec::with_capacity(outputs.len());
    // There are few outputs, so repeated passes are faster than a graph.
    while order.len() < outputs.len() {
        let before = order.len();
        let mut waiting = None;
        for (index, (path, refers_to)) in outputs.iter().enumerate() {
            if order.contains(&index) {
                continue;
            }
            let unmet = outputs.iter().enumerate().find(|(other, (to, _))| {
                *other != index && to != path && !order.contains(other) && refers_to(to)
            });
            match unmet {
                None => order.push(index),
                Some((other, _)) => waiting = Some((index, other)),
            }
        }
        if let (true, Some(circle)) = (order.len() == before, waiting) {
            return Err(circle);
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(seed: u8) -> StorePath {
        StorePath::new([seed; 20], "x".parse().unwrap())
    }

    #[test]
    fn orders_and_finds_circles() {
        let paths = [path(1), path(2), path(3)];
        let order = |edges: &[(usize, usize)]| {
            let outputs: Vec<_> = (0..3)
                .map(|from| {
                    let paths = &paths;
                    let refers = move |to: &StorePath| {
                        edges.iter().any(|(f, t)| *f == from && paths[*t] == *to)
                    };
                    (&paths[from], refers)
                })
                .collect();
            references_first(&outputs)
        };
        assert_eq!(order(&[(0, 0), (0, 1), (1, 2)]), Ok(vec![2, 1, 0]));
        assert_eq!(order(&[]), Ok(vec![0, 1, 2]));
        assert!(order(&[(0, 1), (1, 0)]).is_err());
    }
}
