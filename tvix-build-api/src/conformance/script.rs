//! The actions of test builds, in a form that every back end can translate.

use nix_compat::store_path::{StoreDir, StorePath};
use serde::{Deserialize, Serialize};

use crate::FailureKind;
use crate::memory::{MemoryBuild, MemoryOutputs, MemoryResult, Tree};

/// The actions of a build, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Script(pub Vec<Step>);

/// A step of a [`Script`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// Writes a line to the log.
    Log(String),
    /// Writes this number of lines (`line 0`, `line 1`, …) to the log.
    LogLines(u32),
    /// Makes an output: a file with this text.
    File {
        /// The output.
        output: String,
        /// Its contents.
        text: Vec<Text>,
    },
    /// Makes an output: a directory with an executable, a symlink to it and an empty directory.
    Tree {
        /// The output.
        output: String,
    },
    /// Makes an output: a file with the contents of an input, which is a file.
    Copy {
        /// The input.
        input: StorePath,
        /// The output.
        output: String,
    },
    /// Makes an output: a file with the names of all visible inputs, in order, a line each.
    ListInputs {
        /// The output.
        output: String,
    },
    /// Waits forever.
    Forever,
    /// Ends with this exit code.
    Exit(i32),
}

/// A piece of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Text {
    /// Literal characters, none of which is special in a shell.
    Plain(String),
    /// The path of an output of the derivation, as seen by the build.
    Output(String),
    /// A store path.
    Path(StorePath),
}

/// The contents of the executable in [`Step::Tree`].
const EXECUTABLE: &str = "#!/bin/sh\n";

impl Script {
    /// The script for a POSIX shell with `cat`, `chmod`, `ls`, `ln`, `mkdir` and `sleep`. Paths of
    /// outputs are in the environment variables of the same names.
    pub fn to_shell(&self, dir: &StoreDir) -> String {
        let mut shell = String::from("set -e\n");
        for step in &self.0 {
            shell.push_str(&match step {
                Step::Log(line) => format!("echo '{line}'\n"),
                Step::LogLines(count) => format!(
                    "i=0; while [ $i -lt {count} ]; do echo \"line $i\"; i=$((i+1)); done\n"
                ),
                Step::File { output, text } => {
                    let text: String = text.iter().map(|text| text.to_shell(dir)).collect();
                    format!("printf %s \"{text}\" > \"${output}\"\n")
                }
                Step::Tree { output } => format!(
                    "mkdir -p \"${output}/bin\" \"${output}/empty\"\n\
                     printf '#!/bin/sh\\n' > \"${output}/bin/run\"\n\
                     chmod 755 \"${output}/bin/run\"\n\
                     ln -s bin/run \"${output}/run\"\n"
                ),
                Step::Copy { input, output } => {
                    format!("cat {} > \"${output}\"\n", dir.display(input))
                }
                // The redirection would create the output before it is listed.
                Step::ListInputs { output } => {
                    format!("list=$(ls {dir})\necho \"$list\" > \"${output}\"\n")
                }
                Step::Forever => "while true; do sleep 1000; done\n".to_owned(),
                Step::Exit(code) => format!("exit {code}\n"),
            });
        }
        shell
    }

    /// Executes the script as a closure of [`InMemoryBuilder`](crate::memory::InMemoryBuilder).
    pub async fn run_in_memory(self, build: MemoryBuild) -> MemoryResult {
        let mut outputs = MemoryOutputs::new();
        for step in self.0 {
            match step {
                Step::Log(line) => build.log(line).await,
                Step::LogLines(count) => {
                    for number in 0..count {
                        build.log(format!("line {number}")).await;
                    }
                }
                Step::File { output, text } => {
                    let text: String = text.iter().map(|text| text.expand(&build)).collect();
                    outputs = outputs.with(output, Tree::file(text));
                }
                Step::Tree { output } => {
                    let bin = Tree::directory().with("run", Tree::executable(EXECUTABLE));
                    let tree = Tree::directory()
                        .with("bin", bin)
                        .with("empty", Tree::directory())
                        .with("run", Tree::symlink("bin/run"));
                    outputs = outputs.with(output, tree);
                }
                Step::Copy { input, output } => {
                    outputs = outputs.with(output, copy(&build, &input).await?);
                }
                Step::ListInputs { output } => {
                    let mut inputs: Vec<_> = build.request().inputs.iter().collect();
                    inputs.sort_by(|a, b| a.path.cmp(&b.path));
                    let lines = inputs.into_iter().map(|info| format!("{}\n", info.path));
                    outputs = outputs.with(output, Tree::file(lines.collect::<String>()));
                }
                Step::Forever => std::future::pending().await,
                Step::Exit(0) => return Ok(outputs),
                Step::Exit(code) => return Err(FailureKind::ExitCode { code }.into()),
            }
        }
        Ok(outputs)
    }
}

async fn copy(build: &MemoryBuild, input: &StorePath) -> Result<Tree, crate::memory::MemoryFault> {
    use futures::TryStreamExt as _;
    let trouble = |message: String| FailureKind::InvalidDerivation { message };
    let visible = build
        .request()
        .inputs
        .iter()
        .any(|info| info.path == *input);
    if !visible {
        return Err(FailureKind::ExitCode { code: 1 }.into());
    }
    let nar = build.inputs().nar(input).await;
    let nar = nar.map_err(|error| trouble(error.to_string()))?;
    let nar: Vec<bytes::Bytes> = nar
        .try_collect()
        .await
        .map_err(|error| trouble(error.to_string()))?;
    let nar = nar.concat();
    let mut reader = nix_compat::nar::Reader::new(&nar[..]);
    let mut contents = Vec::new();
    loop {
        match reader.next_event() {
            Ok(Some(nix_compat::nar::Event::Contents(bytes))) => contents.extend_from_slice(bytes),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Tree::file(contents)),
            Err(error) => return Err(trouble(error.to_string()).into()),
        }
    }
}

impl Text {
    fn to_shell(&self, dir: &StoreDir) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Output(output) => format!("${{{output}}}"),
            Self::Path(path) => dir.display(path).to_string(),
        }
    }

    fn expand(&self, build: &MemoryBuild) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Output(output) => build.output_path(output).unwrap_or_default(),
            Self::Path(path) => build.store_dir().display(path).to_string(),
        }
    }
}
