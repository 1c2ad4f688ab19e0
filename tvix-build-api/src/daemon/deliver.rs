//! Delivery of outputs.

use std::collections::HashSet;

use futures::stream::{self, StreamExt as _};
use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_store_api::daemon::DaemonConnection;
use tvix_store_api::verify::check_address;
use tvix_store_api::{NarStream, Store as _};

use super::{DaemonBuilder, Trouble};
use crate::outputs::references_first;
use crate::{BuildRequest, BuilderError, Delivery, PushedOutput, StreamedOutput};

/// Size in bytes of all NARs of a build up to which they are read while the connection of the build is
/// there. Larger ones are streams from the daemon.
const SMALL: u64 = 1 << 20;

/// An output that was made, with checked metadata.
#[derive(Debug)]
pub(super) struct Made {
    name: OutputName,
    info: PathInfo,
}

impl DaemonBuilder {
    /// Checks the metadata of an output.
    pub(super) fn checked(
        &self,
        request: &BuildRequest,
        name: OutputName,
        info: Option<PathInfo>,
    ) -> Result<Made, BuilderError> {
        let lie = |message: String| self.backend("deliver outputs", false, message);
        let Some(mut info) = info else {
            return Err(lie(format!(
                "it reported success, and output '{name}' is not valid"
            )));
        };
        let dir = self.0.options.daemon.store_dir();
        let outputs = request.derivation.output_paths(dir);
        let own: HashSet<StorePath> = outputs.filter_map(|(_, path)| path).collect();
        let mut inputs = HashSet::with_capacity(request.inputs.len());
        inputs.extend(request.inputs.iter().map(|info| &info.path));
        let floating = own.len() != request.derivation.outputs.len();
        let mut references = info.references.iter();
        let foreign = references
            .find(|path| !inputs.contains(*path) && !own.contains(*path) && **path != info.path);
        let foreign = foreign.cloned();
        drop(references);
        if let Some(reference) = foreign.filter(|_| !floating) {
            return Err(lie(format!(
                "output '{name}' refers to '{reference}', which is not an input"
            )));
        }
        check_address(dir, &info).map_err(|error| lie(error.to_string()))?;
        info.deriver = Some(request.drv_path.clone());
        Ok(Made { name, info })
    }

    /// Delivers outputs as the request asks.
    pub(super) async fn deliver(
        &self,
        connection: &mut DaemonConnection,
        request: &BuildRequest,
        made: Vec<Made>,
    ) -> Result<Delivery, Trouble> {
        let refers = made.iter().map(|made| {
            let refers = |path: &StorePath| made.info.references.contains(path);
            (&made.info.path, refers)
        });
        let order = references_first(&refers.collect::<Vec<_>>()).map_err(|(one, other)| {
            let (one, other) = (&made[one].name, &made[other].name);
            let message = format!("outputs '{one}' and '{other}' refer to each other");
            self.backend("deliver outputs", false, message)
        })?;
        let mut made: Vec<_> = made.into_iter().map(Some).collect();
        let made = order.into_iter().filter_map(|index| made[index].take());
        let made: Vec<Made> = made.collect();
        let own = request.store.as_ref() == Some(self.0.options.daemon.uri());
        let paths: Vec<_> = made.iter().map(|made| made.info.path.clone()).collect();
        let store = self.store().await?;
        if own {
            // As the store knows them, and as roots of our own.
            let infos = store.path_infos(&paths).await;
            let infos = infos.map_err(|error| self.store_failed("look up outputs", error))?;
            let mut pushed = Vec::with_capacity(made.len());
            for (made, info) in made.into_iter().zip(infos) {
                let info = info.ok_or_else(|| {
                    let message = format!("output '{}' is not valid any more", made.name);
                    self.backend("deliver outputs", true, message)
                })?;
                pushed.push(PushedOutput::new(made.name, info));
            }
            self.0.inputs.are_present(paths);
            return Ok(Delivery::Pushed(pushed));
        }
        // They become roots of ours while the connection keeps them.
        let keeping = store.valid_paths(&paths);
        let (kept, read) = futures::join!(keeping, self.read(connection, &made));
        let kept = kept.map_err(|error| self.store_failed("keep outputs", error))?;
        let read = read?;
        self.0.inputs.are_present(kept);
        let outputs = made.into_iter().zip(read);
        let outputs = outputs.map(|(made, nar)| StreamedOutput::new(made.name, made.info, nar));
        let outputs: Vec<_> = outputs.collect();
        let known = request.store.as_ref();
        let known = known.and_then(|uri| self.0.options.stores.get(uri));
        match known {
            Some(store) => {
                let pushed = Delivery::push(outputs, &**store).await;
                pushed.map_err(|source| {
                    let builder = self.name();
                    BuilderError::Push { builder, source }.into()
                })
            }
            None => Ok(Delivery::Streamed(outputs)),
        }
    }

    /// The contents of outputs: in memory if they are small.
    async fn read(
        &self,
        connection: &mut DaemonConnection,
        made: &[Made],
    ) -> Result<Vec<NarStream>, BuilderError> {
        let size = made.iter().map(|made| made.info.nar_size).sum::<u64>();
        if size > SMALL {
            let store = self.store().await?;
            let streams = made.iter().map(|made| {
                let (store, path) = (store.clone(), made.info.path.clone());
                let open = async move { store.nar(&path).await };
                let opened = stream::once(open).map(|opened| match opened {
                    Ok(nar) => nar,
                    Err(error) => stream::once(async move { Err(error) }).boxed(),
                });
                opened.flatten().boxed()
            });
            return Ok(streams.collect());
        }
        let infos: Vec<_> = made.iter().map(|made| made.info.clone()).collect();
        let read = connection.read_small(&infos).await;
        let read = read.map_err(|error| self.call_failed("read outputs", error))?;
        let streams = read.into_iter().map(|nar| {
            let nar = nar.map_err(|error| self.store_failed("read outputs", error))?;
            Ok(stream::once(async move { Ok(nar) }).boxed())
        });
        streams.collect()
    }
}
