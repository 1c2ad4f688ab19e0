//! Lists every derivation of a package set: each attribute's name with its `.drv` path, or with an
//! error. An error in one attribute does not stop the others.
//!
//! `cargo run --release -p tvix-eval --example all_packages -- FILE`

use std::rc::Rc;

use tvix_eval::Job;
use tvix_eval::error::Result;
use tvix_eval::files::HostFiles;
use tvix_eval::heap::Heap;
use tvix_eval::host::NoHost;
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::value::{Ref, Value};
use tvix_eval::world::{Settings, World};

fn packages<'h>(interp: &Interp<'h>, file: &str) -> Result<Value<'h>> {
    let value = interp.eval_file(file.as_bytes())?;
    if !value.is_function() {
        return Ok(value);
    }
    let empty = interp.cell(interp.attrs(Vec::new()));
    interp.call(value, &[empty], Pos::NONE)
}

fn drv_path<'h>(interp: &Interp<'h>, package: Ref<'h>) -> Result<Option<String>> {
    let Value::Attrs(package) = interp.force(package)? else {
        return Ok(None);
    };
    if !interp.is_derivation(package)? {
        return Ok(None);
    }
    let Some(path) = package.get(interp.intern("drvPath")) else {
        return Ok(None);
    };
    match interp.force(path.value)? {
        Value::String(path) => Ok(Some(String::from_utf8_lossy(path.bytes).into_owned())),
        _ => Ok(None),
    }
}

fn main() {
    let file = std::env::args().nth(1).expect("a file to evaluate");
    let file = std::fs::canonicalize(file).expect("the file exists");
    let file = file.to_str().expect("a path in UTF-8").to_owned();
    let heap = Heap::new();
    let world = World::new(Settings::default(), Rc::new(HostFiles), Rc::new(NoHost));
    let interp = Interp::new(&heap, world);
    let found = std::cell::RefCell::new(Vec::new());
    let list: Job<'_, '_> = Box::new(|interp| match packages(interp, &file) {
        Ok(Value::Attrs(all)) => {
            *found.borrow_mut() = interp.by_name(all).into_iter().collect();
        }
        Ok(_) => eprintln!("not a set"),
        Err(error) => eprintln!("{}", interp.render(&error)),
    });
    interp.run([list]).expect("nothing waits for a build");
    let jobs = found
        .into_inner()
        .into_iter()
        .map(|(name, attr)| -> Job<'_, '_> {
            Box::new(move |interp| {
                let shown = String::from_utf8_lossy(name);
                match drv_path(interp, attr.value) {
                    Ok(Some(path)) => println!("{shown} {path}"),
                    Ok(None) => {}
                    Err(error) => eprintln!(
                        "{shown}: {}",
                        error.message.lines().next().unwrap_or_default()
                    ),
                }
            })
        });
    interp.run(jobs).expect("nothing waits for a build");
    eprintln!("heap: {} MB", heap.used_bytes() >> 20);
}
