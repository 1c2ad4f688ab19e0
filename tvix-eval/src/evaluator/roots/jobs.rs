//! Derivations of job sets, with their details.

use tvix_eval_api::{AttrPath, EvalEvent, JobDetails, JobOptions, Root, WantedOutputs};

use super::{Failed, Search, Searched, Task};

use crate::error::{Error, ErrorKind, Result};
use crate::interp::{Interp, cancelled};
use crate::source::Pos;
use crate::text::json::write_string;
use crate::value::{Attrs, ContextId, Ref, Value};

impl<'h> Search<'h, '_> {
    /// Yields a derivation as a job.
    pub(super) fn job(
        &self,
        interp: &Interp<'h>,
        task: &Task<'h>,
        attrs: &Attrs<'h>,
        options: &JobOptions,
    ) -> Searched {
        let Some(attr) = attrs.get(interp.known.name) else {
            return Err(Error::new(ErrorKind::Type, "derivation name missing").into());
        };
        let why = "while evaluating the 'name' attribute of a derivation";
        let name = interp.expect_plain_string(attr.value, Pos::NONE, why)?;
        let drv_path = interp.drv_path(attrs).map_err(Failed::Derivation)?;
        let known = interp
            .known_derivation(&drv_path)
            .map_err(Failed::Derivation)?;
        let mut outputs: Vec<_> = known.derivation.outputs.iter().map(|(it, _)| it).collect();
        if let Some(attr) = attrs.get(interp.known.output_name) {
            let why = "while evaluating the output name of a derivation";
            let own = interp.expect_plain_string(attr.value, Pos::NONE, why)?;
            if outputs.iter().any(|it| it.as_str().as_bytes() == own.bytes) {
                outputs.retain(|it| it.as_str().as_bytes() == own.bytes);
            }
        }
        let outputs = outputs.into_iter().cloned().collect();
        let wanted = WantedOutputs::new(drv_path, outputs);
        let meta = match options.meta {
            true => Some(meta(interp, attrs)?),
            false => None,
        };
        let attr_path = match &task.shared {
            None => AttrPath::new(task.name.as_str()).names,
            Some(task) => {
                let trail = task.place().trail();
                let requested = trail.first().map_or("", |requested| requested.name());
                let below = trail.iter().skip(1).map(|place| place.name().to_owned());
                AttrPath::new(requested)
                    .names
                    .into_iter()
                    .chain(below)
                    .collect()
            }
        };
        let name = String::from_utf8_lossy(name.bytes);
        let details = JobDetails::new(name, attr_path, known.derivation.clone())
            .with_meta(meta)
            .with_cost(task.began.cost(interp));
        let root = Root::new(task.name.as_str(), wanted).with_order(task.order.clone());
        let root = root.with_job(details);
        match self.wire.event(EvalEvent::Root(root)) {
            true => Ok(()),
            false => Err(cancelled().into()),
        }
    }
}

/// The attribute `meta` as JSON, without the attributes that have no JSON form.
fn meta<'h>(interp: &Interp<'h>, attrs: &Attrs<'h>) -> Result<String> {
    let Some(meta) = attrs.get(interp.intern("meta")) else {
        return Ok("null".to_owned());
    };
    let why = "while evaluating the 'meta' attribute of a derivation";
    let meta = interp.expect_attrs(meta.value, meta.pos, why)?;
    let mut out = vec![b'{'];
    let names = interp.by_name(meta).into_iter();
    // Values are read from the set, which keeps them alive.
    let names: Vec<_> = names.map(|(name, attr)| (name, attr.name)).collect();
    for (name, symbol) in names {
        let Some(attr) = meta.get(symbol) else {
            continue;
        };
        if !is_plain(interp, attr.value)? {
            continue;
        }
        let before = out.len();
        if before > 1 {
            out.push(b',');
        }
        if write_string(&mut out, name).is_err() {
            out.truncate(before);
            continue;
        }
        out.push(b':');
        let mut context = ContextId::EMPTY;
        interp.write_json(attr.value, attr.pos, false, &mut out, &mut context)?;
    }
    out.push(b'}');
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Whether a value consists of strings, numbers and Booleans, as C++ Nix requires of values in
/// `meta`.
fn is_plain<'h>(interp: &Interp<'h>, cell: Ref<'h>) -> Result<bool> {
    let all = |cells: &mut dyn Iterator<Item = Ref<'h>>| {
        interp.nested(Pos::NONE, || {
            for cell in cells {
                if !is_plain(interp, cell)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    };
    match interp.force(cell)? {
        Value::String(_) | Value::Int(_) | Value::Bool(_) | Value::Float(_) => Ok(true),
        Value::List(list) => all(&mut list.items.iter().copied()),
        Value::Attrs(attrs) if attrs.get(interp.intern("outPath")).is_some() => Ok(false),
        Value::Attrs(attrs) => all(&mut interp.entries(attrs).iter().map(|attr| attr.value)),
        _ => Ok(false),
    }
}
