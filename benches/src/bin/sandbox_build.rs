//! The cost of a build from the call of `Builder::build` until its output is valid in a local
//! store: a shell that creates one small file.
//!
//!     cargo run --release -p tvix-benches --bin sandbox_build [PROGRAM [ROUNDS]]
//!
//! PROGRAM is a statically linked shell (default: the first `busybox` in PATH). The lines below the
//! total measure its parts separately: the process alone, and the registration alone.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_build_api::memory::InMemoryBuilder;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderProfile, this_system,
};
use tvix_sandbox::{Access, Ending, Engine, EngineOptions, Mount, SandboxSpec};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions, OutputTree};
use tvix_store_api::{MemoryStore, Store, StoreExt as _};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tvix_build_api::sandbox::init();
    let mut arguments = std::env::args().skip(1);
    let program = match arguments.next() {
        Some(path) => PathBuf::from(path),
        None => find("busybox").ok_or("no busybox in PATH: name a static executable")?,
    };
    let rounds: usize = arguments.next().map_or(Ok(500), |text| text.parse())?;

    let directory = tempfile::tempdir()?;
    let store = LocalStore::open(LocalStoreOptions::new(directory.path())).await?;
    let options =
        SandboxOptions::new("bench").with_sandbox_paths([SandboxPath::new(&program, "/bin/sh")]);
    let builder = SandboxBuilder::new(options)?.with_local_store(&store);
    let bench = Bench {
        builder: &builder,
        store: &store,
    };

    let mut inputs = Vec::new();
    for number in 0..100 {
        let name = format!("input-{number}").parse()?;
        let path = store.add_text(name, b"input", [].into()).await?;
        inputs.push(store.require(&path).await?);
    }
    for count in [0, 10, 100] {
        let mut times = Vec::new();
        for round in 0..rounds {
            let made = derivation(&store, &format!("seq-{count}-{round}"))?;
            let begin = Instant::now();
            bench.build(&made, &inputs[..count]).await?;
            times.push(begin.elapsed());
        }
        report(&format!("build, {count} inputs"), &mut times);
    }

    let mut times = Vec::new();
    let scratch = store.state_dir().join("tvix-builds");
    let engine = Engine::new(EngineOptions::new(scratch))?;
    for _ in 0..rounds {
        let begin = Instant::now();
        process(&engine, &program).await?;
        times.push(begin.elapsed());
    }
    report("  of it, the process", &mut times);

    let mut times = Vec::new();
    for round in 0..rounds {
        let place = store.scratch()?;
        std::fs::write(place.path(), "hello")?;
        let tree = OutputTree::new(
            place.path().to_owned(),
            std::fs::metadata(place.path()).map(|m| {
                use std::os::unix::fs::MetadataExt as _;
                m.uid()
            })?,
            StorePath::new(numbered(round), "registered".parse()?),
        );
        let begin = Instant::now();
        store.import_outputs(vec![tree], Vec::new()).await?;
        times.push(begin.elapsed());
    }
    report("  of it, scanning and registering", &mut times);

    for lanes in [2, 4, 8] {
        let begin = Instant::now();
        let builds = (0..lanes).map(|lane| {
            let bench = &bench;
            async move {
                for round in 0..rounds / lanes {
                    let made = derivation(bench.store, &format!("par-{lanes}-{lane}-{round}"))?;
                    bench.build(&made, &[]).await?;
                }
                Result::Ok(())
            }
        });
        futures::future::try_join_all(builds).await?;
        let each = begin.elapsed() / u32::try_from(rounds / lanes * lanes)?;
        println!("{lanes} at a time: {} us per build", each.as_micros());
    }
    in_memory(200_000).await
}

/// The cost of the in-memory builder, which runs no process.
async fn in_memory(rounds: u32) -> Result<()> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Default::default()));
    let profile = BuilderProfile::new("memory", this_system(), 1);
    let made =
        DerivationBuilder::new("x", this_system(), "/bin/sh").instantiate(store.store_dir())?;
    let builder = InMemoryBuilder::trivial(profile);
    let context = BuildContext::new(store);
    let begin = Instant::now();
    for _ in 0..rounds {
        let request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        builder.build(request, context.clone()).await?;
    }
    println!(
        "in memory, trivial: {} ns per build",
        (begin.elapsed() / rounds).as_nanos()
    );
    Ok(())
}

struct Bench<'a> {
    builder: &'a SandboxBuilder,
    store: &'a LocalStore,
}

impl Bench<'_> {
    async fn build(&self, made: &Instantiated, inputs: &[Arc<PathInfo>]) -> Result<()> {
        let mut request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        request.store = Some(self.store.uri().clone());
        request.inputs = inputs.to_vec();
        let context = BuildContext::new(Arc::new(self.store.clone()));
        match self.builder.build(request, context).await? {
            BuildOutcome::Success(_) => Ok(()),
            BuildOutcome::Failure(failure) => Err(failure.to_string().into()),
        }
    }
}

fn derivation(store: &LocalStore, name: &str) -> Result<Instantiated> {
    let builder = DerivationBuilder::new(name, this_system(), "/bin/sh");
    let builder = builder.args(["-c", "echo hello > $out"]);
    Ok(builder.instantiate(store.store_dir())?)
}

async fn process(engine: &Engine, program: &Path) -> Result<()> {
    let mut scratch = engine.scratch()?;
    let mut spec = SandboxSpec::new("/bin/sh");
    spec.args = ["sh", "-c", "echo hello > /build/out"]
        .map(Into::into)
        .to_vec();
    spec.host_ids = scratch.host_ids();
    spec.cwd = "/build".into();
    spec.mounts
        .push(Mount::bind(program, "/bin/sh", Access::ReadOnly));
    spec.mounts
        .extend(scratch.mounts(Path::new("/nix/store"), &[])?);
    let running = engine.spawn_holding(spec, scratch).await?;
    let (ending, _) = running.output().await?;
    if ending != Ending::Exited(0) {
        return Err(format!("{ending:?}").into());
    }
    Ok(())
}

fn numbered(number: usize) -> [u8; 20] {
    let mut digest = [7; 20];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    digest
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn report(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros();
    println!(
        "{name:36} median {:6}  p10 {:6}  p90 {:6}",
        at(50),
        at(10),
        at(90)
    );
}
