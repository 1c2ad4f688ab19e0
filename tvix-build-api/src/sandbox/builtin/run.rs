//! Running a task in the process of a built-in builder.

use std::path::Path;

use bstr::ByteSlice as _;

use super::task::{Complaint, Task};
use super::{buildenv, fetchurl, unpack_channel};

/// Executes the task in the file that the first argument names, and returns the exit code.
pub(super) fn run() -> i32 {
    match read().and_then(|task| perform(&task)) {
        Ok(()) => 0,
        Err(complaint) => {
            eprintln!("error: {complaint}");
            let mut source = complaint.source();
            while let Some(error) = source {
                eprintln!("       {error}");
                source = error.source();
            }
            1
        }
    }
}

/// Removes the file, so that not even child processes can read it.
fn read() -> Result<Task, Complaint> {
    // Before `main`, the standard library has the arguments only with GNU libc.
    let arguments = std::fs::read("/proc/self/cmdline")?;
    let file = arguments.split(|byte| *byte == 0).nth(1).ok_or("no task")?;
    let file = Path::new(file.to_os_str()?).to_owned();
    let contents = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    Ok(serde_json::from_slice(&contents)?)
}

fn perform(task: &Task) -> Result<(), Complaint> {
    match task.builder.as_str() {
        "builtin:fetchurl" => fetchurl::run(task),
        "builtin:unpack-channel" => unpack_channel::run(task),
        "builtin:buildenv" => buildenv::run(task),
        other => Err(format!("there is no built-in builder '{other}'").into()),
    }
}
