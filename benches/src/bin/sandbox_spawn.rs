//! The cost of a sandbox: a program that does nothing, started plainly and in sandboxes.
//!
//!     cargo run --release -p tvix-benches --bin sandbox_spawn [PROGRAM [ROUNDS]]
//!
//! PROGRAM is a statically linked executable (default: the first `busybox` in PATH); it is called
//! as `sh -c :`. Run it as root and as an ordinary user: the implementations differ. Each line is
//! in microseconds, from the request until the process is reaped and its log is read.

use std::error::Error;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tvix_sandbox::{Access, Ending, Engine, EngineOptions, Isolation, Mount, Network, SandboxSpec};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let program = match arguments.next() {
        Some(path) => PathBuf::from(path),
        None => find("busybox").ok_or("no busybox in PATH: name a static executable")?,
    };
    let rounds: usize = arguments.next().map_or(Ok(300), |text| text.parse())?;

    let directory = tempfile::tempdir()?;
    let engine = Engine::new(EngineOptions::new(directory.path().join("scratch")))?;
    engine.probe()?;
    let inputs = make_inputs(&directory.path().join("store"), 100)?;

    let mut plain = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let output = Command::new(&program)
            .arg0("sh")
            .args(["-c", ":"])
            .env_clear()
            .stdin(Stdio::null())
            .output()?;
        assert!(output.status.success());
        plain.push(begin.elapsed());
    }
    report("plain spawn", &mut plain);

    let case = |inputs, isolation, network| Case {
        engine: &engine,
        program: &program,
        inputs,
        isolation,
        network,
    };
    let none = Network::None;
    for (name, case) in [
        ("no sandbox", case(&[], Isolation::None, none)),
        (
            "sandbox, host network",
            case(&[], Isolation::Sandbox, Network::Host),
        ),
        ("sandbox", case(&[], Isolation::Sandbox, none)),
        (
            "sandbox, 10 inputs",
            case(&inputs[..10], Isolation::Sandbox, none),
        ),
        (
            "sandbox, 100 inputs",
            case(&inputs, Isolation::Sandbox, none),
        ),
    ] {
        let mut total = Vec::new();
        let mut spawned = Vec::new();
        for _ in 0..rounds {
            let (until_exec, whole) = case.run().await?;
            spawned.push(until_exec);
            total.push(whole);
        }
        report(name, &mut total);
        report("  of it, until it executes", &mut spawned);
    }

    let begin = Instant::now();
    let case = case(&inputs[..10], Isolation::Sandbox, none);
    let parallel = std::thread::available_parallelism()?.get();
    let lanes = (0..parallel).map(|_| async {
        for _ in 0..rounds / parallel {
            case.run().await?;
        }
        Result::Ok(())
    });
    futures::future::try_join_all(lanes).await?;
    let each = begin.elapsed() / u32::try_from(rounds / parallel * parallel)?;
    println!(
        "{parallel} at a time, 10 inputs: {} us per process",
        each.as_micros()
    );

    let mut ballast = vec![0u8; 1 << 30];
    ballast.iter_mut().step_by(4096).for_each(|page| *page = 1);
    let mut total = Vec::new();
    for _ in 0..rounds {
        total.push(case.run().await?.1);
    }
    report("sandbox, 10 inputs, from a program of 1 GiB", &mut total);
    drop(ballast);
    Ok(())
}

struct Case<'a> {
    engine: &'a Engine,
    program: &'a Path,
    inputs: &'a [PathBuf],
    isolation: Isolation,
    network: Network,
}

impl Case<'_> {
    /// The time until the program is executed, and the total time.
    async fn run(&self) -> Result<(Duration, Duration)> {
        let begin = Instant::now();
        let mut scratch = self.engine.scratch()?;
        let mut spec = SandboxSpec::new("/bin/sh");
        spec.args = ["sh", "-c", ":"].map(Into::into).to_vec();
        spec.isolation = self.isolation;
        spec.network = self.network;
        spec.host_ids = scratch.host_ids();
        if self.isolation == Isolation::None {
            spec.program = self.program.into();
            // A build with another user needs its own directory.
            spec.cwd = "/".into();
        } else {
            spec.cwd = "/build".into();
            spec.mounts.extend([
                Mount::bind(self.program, "/bin/sh", Access::ReadOnly),
                Mount::file("/etc/passwd", "nixbld:x:1000:100::/build:/noshell\n"),
                Mount::file("/etc/group", "nixbld:!:100:\n"),
                Mount::file("/etc/hosts", "127.0.0.1 localhost\n"),
            ]);
            spec.mounts
                .extend(scratch.mounts(Path::new("/nix/store"), self.inputs)?);
        }
        let running = self.engine.spawn_holding(spec, scratch).await?;
        let spawned = begin.elapsed();
        let (ending, log) = running.output().await?;
        if ending != Ending::Exited(0) {
            return Err(format!("{ending:?}: {}", String::from_utf8_lossy(&log)).into());
        }
        Ok((spawned, begin.elapsed()))
    }
}

fn make_inputs(store: &Path, count: usize) -> Result<Vec<PathBuf>> {
    (0..count)
        .map(|number| {
            let path = store.join(format!("{number:032}-input"));
            std::fs::create_dir_all(&path)?;
            Ok(path)
        })
        .collect()
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
    let mean = times.iter().sum::<Duration>().as_micros() / times.len() as u128;
    println!(
        "{name:44} median {:6}  mean {mean:6}  p10 {:6}  p90 {:6}",
        at(50),
        at(10),
        at(90)
    );
}
