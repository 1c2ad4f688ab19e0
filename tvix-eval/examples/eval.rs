//! Evaluates an expression or a file, as `nix-instantiate --eval` does.
//!
//! `cargo run -p tvix-eval --example eval -- [--strict] [--json] (-E EXPR | FILE) [-A ATTR]`

#![allow(clippy::unwrap_used)]

use std::rc::Rc;

use tvix_eval::files::HostFiles;
use tvix_eval::heap::Heap;
use tvix_eval::host::NoHost;
use tvix_eval::interp::Interp;
use tvix_eval::value::{ContextId, Value};
use tvix_eval::world::{Settings, World};

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut strict, mut json, mut expr, mut file, mut attr) = (false, false, None, None, None);
    let mut drv = false;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--strict" => strict = true,
            "--json" => json = true,
            "--drv" => drv = true,
            "-E" => expr = args.next(),
            "-A" => attr = args.next(),
            _ => file = Some(arg),
        }
    }
    let heap = Heap::new();
    let interp = Interp::new(
        &heap,
        World::new(Settings::default(), Rc::new(HostFiles), Rc::new(NoHost)),
    );
    let code = std::cell::Cell::new(0);
    let job = |interp: &Interp<'_>| {
        let result = (|| {
            let here = std::env::current_dir().unwrap();
            let mut value = match (&expr, &file) {
                (Some(expr), _) => {
                    interp.eval_text(expr.as_bytes(), here.to_str().unwrap().as_bytes())?
                }
                (None, Some(file)) => {
                    let path = std::fs::canonicalize(file).unwrap();
                    interp.eval_file(path.to_str().unwrap().as_bytes())?
                }
                (None, None) => Value::Null,
            };
            if let Some(attr) = &attr {
                if value.is_function() {
                    let empty = interp.cell(interp.attrs(Vec::new()));
                    value = interp.call(value, &[empty], tvix_eval::source::Pos::NONE)?;
                }
                for part in attr.split('.') {
                    let Value::Attrs(attrs) = value else { break };
                    let found = attrs.get(interp.intern(part)).expect("no such attribute");
                    value = interp.force(found.value)?;
                }
            }
            let cell = interp.cell(value);
            let mut out = Vec::new();
            if drv {
                let Value::Attrs(attrs) = value else {
                    return Ok(out);
                };
                let found = attrs.get(interp.intern("drvPath")).expect("no derivation");
                value = interp.force(found.value)?;
                interp.print(value, &mut out)?;
            } else if json {
                let mut context = ContextId::EMPTY;
                interp.write_json(
                    cell,
                    tvix_eval::source::Pos::NONE,
                    true,
                    &mut out,
                    &mut context,
                )?;
            } else {
                if strict {
                    interp.force_deep(cell, tvix_eval::source::Pos::NONE)?;
                }
                interp.print(value, &mut out)?;
            }
            Ok(out)
        })();
        match result {
            Ok(out) => println!("{}", String::from_utf8_lossy(&out)),
            Err(error) => {
                let error: Box<tvix_eval::error::Error> = error;
                eprintln!("{}", interp.render(&error));
                code.set(1);
            }
        }
    };
    if let Err(error) = interp.run([Box::new(job) as tvix_eval::Job<'_, '_>]) {
        eprintln!("{}", error.message);
        code.set(1);
    }
    if std::env::var_os("EVAL_STATS").is_some() {
        eprintln!("heap: {} MB", heap.used_bytes() >> 20);
    }
    std::process::exit(code.get());
}
