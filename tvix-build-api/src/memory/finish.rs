//! Turns trees into outputs with complete infos.

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, NixHash, SelfReferenceHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::refscan::ReferenceScanner;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_store_api::verify::digest;

use super::Tree;
use super::job::{MemoryBuild, MemoryOutputs};
use crate::outputs::{
    Destination, HashRewrite, MadeOutput, OutputChecks, PlannedOutput, check_fixed, floating_path,
    references_first, rewrite_in_place,
};
use crate::{FailureKind, StreamedOutput};

impl MemoryBuild {
    /// The outputs with their paths, hashes and references, references first. The rules of the
    /// derivation are checked: fixed hashes, allowed references, sizes.
    ///
    /// # Errors
    ///
    /// If an output is missing or breaks a rule.
    pub fn finish(&self, made: MemoryOutputs) -> Result<Vec<StreamedOutput>, FailureKind> {
        let outputs = finish(self, made)?.into_iter();
        let streamed = outputs.map(|Finished { output, info, nar }| StreamedOutput {
            name: output.name,
            info,
            nar: stream::iter([Ok(nar)]).boxed(),
        });
        Ok(streamed.collect())
    }
}

/// An output that is ready for delivery.
struct Finished {
    output: PlannedOutput,
    info: PathInfo,
    nar: Bytes,
}

struct Made {
    output: PlannedOutput,
    nar: Vec<u8>,
    /// The paths that occur in its contents.
    mentions: SortedSet<StorePath>,
    /// The recorded references: empty if the derivation discards them.
    references: SortedSet<StorePath>,
    /// The contents, if the output is a file that is not executable.
    plain: Option<Bytes>,
}

impl Made {
    fn for_checks(&self) -> MadeOutput<'_> {
        MadeOutput {
            output: &self.output,
            references: &self.references,
            nar_size: self.nar.len() as u64,
        }
    }
}

/// Hashes, scans and checks the trees. The outputs are sorted, references first.
fn finish(build: &MemoryBuild, mut made: MemoryOutputs) -> Result<Vec<Finished>, FailureKind> {
    let dir = build.store_dir();
    let request = build.request();
    let checks = OutputChecks::of(dir, &request.attributes()?, &build.outputs)?;
    let inputs = request.inputs.iter().map(|info| &info.path);
    let own = build.outputs.iter().map(|output| &output.path);
    let scanner = ReferenceScanner::new(inputs.chain(own));
    let outputs = build.outputs.iter().map(|output| {
        let tree = made.0.remove(output.name.as_str());
        let tree = tree.ok_or_else(|| FailureKind::MissingOutput {
            output: output.name.clone(),
            path: dir.display(&output.path).to_string(),
        })?;
        let discards = checks.discards_references(&output.name);
        make(output, &tree, scanner.clone(), discards)
    });
    let outputs: Vec<Made> = outputs.collect::<Result<_, _>>()?;
    if let Some(name) = made.0.keys().next() {
        let message = format!("it has no output '{name}', which was made");
        return Err(FailureKind::InvalidDerivation { message });
    }
    let made: Vec<_> = outputs.iter().map(Made::for_checks).collect();
    checks.check(&made, &request.inputs)?;
    let order = order(&outputs)?;
    let mut outputs: Vec<Option<Made>> = outputs.into_iter().map(Some).collect();
    let mut moved = Vec::new();
    let mut finished = Vec::with_capacity(outputs.len());
    for made in order.into_iter().filter_map(|index| outputs[index].take()) {
        finished.push(settle(dir, request.drv_path.clone(), made, &mut moved)?);
    }
    Ok(finished)
}

fn make(
    output: &PlannedOutput,
    tree: &Tree,
    mut scanner: ReferenceScanner,
    discards: bool,
) -> Result<Made, FailureKind> {
    let nar = tree.to_nar().map_err(|error| invalid(output, error))?;
    scanner.update(&nar);
    let mentions = scanner.finish();
    Ok(Made {
        output: output.clone(),
        references: match discards {
            true => SortedSet::new(),
            false => mentions.clone(),
        },
        mentions,
        nar,
        plain: tree.plain_contents().cloned(),
    })
}

fn order(outputs: &[Made]) -> Result<Vec<usize>, FailureKind> {
    let edges: Vec<_> = outputs
        .iter()
        .map(|made| {
            let refers_to = |path: &StorePath| made.references.contains(path);
            (&made.output.path, refers_to)
        })
        .collect();
    references_first(&edges).map_err(|(from, to)| {
        let to = &outputs[to].output.name;
        invalid(
            &outputs[from].output,
            format!("it and the output '{to}' refer to each other in a cycle"),
        )
    })
}

/// Computes the final path and contents of an output. `moved` lists the earlier outputs with a
/// changed path.
fn settle(
    dir: &StoreDir,
    deriver: StorePath,
    made: Made,
    moved: &mut Vec<(StorePath, StorePath)>,
) -> Result<Finished, FailureKind> {
    let Made {
        output,
        mut nar,
        mentions,
        references,
        plain,
    } = made;
    let to_rewrite = moved.iter().filter(|(from, _)| mentions.contains(from));
    let rewrites: Vec<_> = to_rewrite
        .map(|(from, to)| HashRewrite::new(from, to))
        .collect();
    rewrite_in_place(&mut nar, &rewrites);
    let renamed = references.iter().map(|path| {
        let found = moved.iter().find(|(from, _)| from == path);
        found.map_or(path, |(_, to)| to).clone()
    });
    let mut references: SortedSet<StorePath> = renamed.collect();
    let mut path = output.path.clone();
    let mut ca = None;
    match &output.destination {
        Destination::Known => {}
        Destination::Fixed(declared) => {
            let hash = hash(&output, declared.method, declared.hash.algo(), &nar, plain)?;
            check_fixed(&output, declared, hash, &references)?;
            ca = Some(declared.clone());
        }
        Destination::Floating(method, algo) => {
            let plain = plain.map(|contents| {
                let mut contents = contents.to_vec();
                rewrite_in_place(&mut contents, &rewrites);
                contents.into()
            });
            let hash = hash(&output, *method, *algo, &nar, plain)?;
            let addressed = floating_path(dir, &output, *method, hash, &references)?;
            let own = HashRewrite::new(&output.path, &addressed.path);
            rewrite_in_place(&mut nar, &[own]);
            moved.push((output.path.clone(), addressed.path.clone()));
            path = addressed.path;
            references = addressed.references;
            ca = Some(addressed.ca);
        }
    }
    let mut info = PathInfo::new(path, digest(&nar), nar.len() as u64);
    info.references = references;
    info.deriver = Some(deriver);
    info.ca = ca;
    info.ultimate = true;
    Ok(Finished {
        output,
        info,
        nar: nar.into(),
    })
}

/// The hash for the content address of an output, without its references to itself.
fn hash(
    output: &PlannedOutput,
    method: ContentAddressMethod,
    algo: HashAlgo,
    nar: &[u8],
    plain: Option<Bytes>,
) -> Result<NixHash, FailureKind> {
    if method != ContentAddressMethod::NixArchive {
        let plain = plain.ok_or_else(|| {
            invalid(
                output,
                "its content address requires a file that is not executable",
            )
        })?;
        return Ok(NixHash::digest(algo, plain));
    }
    let mut hasher = SelfReferenceHasher::new(algo, &output.path);
    hasher.update(nar);
    Ok(hasher.finish())
}

fn invalid(output: &PlannedOutput, message: impl ToString) -> FailureKind {
    FailureKind::InvalidOutput {
        output: output.name.clone(),
        message: message.to_string(),
    }
}
