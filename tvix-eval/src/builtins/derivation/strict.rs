//! `derivationStrict`: instantiates a derivation.

use std::sync::Arc;

use bstr::BString;
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::{
    Derivation, Output, OutputName, output_placeholder, upstream_placeholder,
};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::sorted::{SortedMap, SortedSet};
use nix_compat::store_path::StorePathName;

use crate::builtins::json::MAX_NESTING;
use crate::builtins::text;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::eval::Coercion;
use crate::interp::Instantiated;
use crate::interp::{Demand, Interp};
use crate::source::Pos;
use crate::text::json;
use crate::value::{Attr, Attrs, ContextElement, ContextId, Ref, Value};

/// A derivation under construction from attributes.
struct Draft {
    derivation: Derivation,
    context: ContextId,
    outputs: Vec<OutputName>,
    hash: Option<String>,
    algo: Option<HashAlgo>,
    method: Option<ContentAddressMethod>,
    floating: bool,
    impure: bool,
    /// The attributes as JSON, for a derivation with structured attributes.
    json: Option<Vec<u8>>,
}

pub(super) fn derivation_strict<'h>(
    interp: &Interp<'h>,
    args: &[Ref<'h>],
    pos: Pos,
) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the argument passed to builtins.derivationStrict",
    )?;
    let Some(name) = attrs.get(interp.known.name) else {
        return Err(interp.missing_attr(interp.known.name, Pos::NONE).within(
            pos,
            "in the attrset passed as argument to builtins.derivationStrict",
        ));
    };
    let text = interp
        .expect_plain_string(
            name.value,
            Pos::NONE,
            "while evaluating the `name` attribute passed to builtins.derivationStrict",
        )
        .within(name.pos, "while evaluating the derivation attribute 'name'")?;
    let result = parse_name(text.bytes)
        .and_then(|parsed| collect(interp, attrs, parsed, pos))
        .and_then(|draft| instantiate(interp, draft));
    result.map_err(|error| {
        let what = format!(
            "while evaluating derivation '{}'\n  whose name attribute is located at {}",
            String::from_utf8_lossy(text.bytes),
            interp.place_text(name.pos)
        );
        error.within(Pos::NONE, what)
    })
}

fn wrong(message: impl Into<String>) -> Box<Error> {
    Error::new(ErrorKind::Other, message)
}

fn parse_name(name: &[u8]) -> Result<StorePathName> {
    StorePathName::from_bytes(name).map_err(|error| {
        let name = String::from_utf8_lossy(name);
        let what = crate::access::copy::name_error(&name, &error);
        wrong(format!(
            "invalid derivation name: {what}. Please pass a different 'name'."
        ))
    })
}

fn collect<'h>(
    interp: &Interp<'h>,
    attrs: &Attrs<'h>,
    name: StorePathName,
    pos: Pos,
) -> Result<Draft> {
    let known = &interp.known;
    let flag = |attr: Option<&Attr<'h>>, context| match attr {
        Some(attr) => interp.expect_bool(attr.value, Pos::NONE, context),
        None => Ok(false),
    };
    let structured = flag(
        attrs.get(known.structured_attrs),
        "while evaluating the `__structuredAttrs` attribute passed to builtins.derivationStrict",
    )?;
    let ignore_nulls = flag(
        attrs.get(known.ignore_nulls),
        "while evaluating the `__ignoreNulls` attribute passed to builtins.derivationStrict",
    )?;
    let mut draft = Draft {
        derivation: Derivation {
            name,
            outputs: SortedMap::new(),
            input_drvs: SortedMap::new(),
            input_srcs: SortedSet::new(),
            system: BString::default(),
            builder: BString::default(),
            args: Vec::new(),
            env: SortedMap::with_capacity(attrs.size() + 1),
        },
        context: ContextId::EMPTY,
        outputs: Vec::new(),
        hash: None,
        algo: None,
        method: None,
        floating: false,
        impure: false,
        json: structured.then(|| b"{".to_vec()),
    };
    let demand = match structured {
        true => Demand::Json,
        false => Demand::Texts,
    };
    let members = interp.by_name(attrs);
    interp.each_upcoming(
        &members,
        |(_, attr)| attr.value,
        demand,
        |_, (key, attr)| {
            if attr.name == known.ignore_nulls {
                return Ok(());
            }
            let result = draft.attribute(interp, key, attr, ignore_nulls);
            if let Err(error) = result {
                let key = String::from_utf8_lossy(key);
                return Err(error.within(
                    attr.pos,
                    format!(
                        "while evaluating attribute '{key}' of derivation '{}'",
                        draft.derivation.name
                    ),
                ));
            }
            Ok(())
        },
    )?;
    if let Some(mut json) = draft.json.take() {
        json.push(b'}');
        draft
            .derivation
            .env
            .insert("__json".into(), BString::from(json));
    }
    let _ = pos;
    Ok(draft)
}

impl Draft {
    /// Processes an attribute. Errors of its values have a single frame without a position, "while
    /// evaluating attribute", as in C++ Nix.
    fn attribute<'h>(
        &mut self,
        interp: &Interp<'h>,
        key: &'h [u8],
        attr: &Attr<'h>,
        ignore_nulls: bool,
    ) -> Result<()> {
        let known = &interp.known;
        let pos = Pos::NONE;
        if ignore_nulls && matches!(interp.force_at(attr.value, pos)?, Value::Null) {
            return Ok(());
        }
        if attr.name == known.content_addressed {
            self.floating = interp.expect_bool(attr.value, pos, "")?;
            return Ok(());
        }
        if attr.name == known.impure {
            self.impure = interp.expect_bool(attr.value, pos, "")?;
            return Ok(());
        }
        if attr.name == known.args {
            let items = interp.expect_list(attr.value, pos, "")?.items;
            return interp.each_upcoming(
                items,
                |item| item,
                Demand::Texts,
                |_, item| {
                    let value = interp.force_at(item, pos)?;
                    let why = "while evaluating an element of the argument list";
                    let mut text = Vec::new();
                    let context = &mut self.context;
                    interp.coerce(value, Coercion::ENVIRONMENT, pos, why, &mut text, context)?;
                    self.derivation.args.push(text.into());
                    Ok(())
                },
            );
        }
        if self.json.is_some() {
            return self.structured_attribute(interp, key, attr);
        }
        let value = interp.force_at(attr.value, pos)?;
        let text = interp.with_buffer(|text| {
            interp.coerce(
                value,
                Coercion::ENVIRONMENT,
                pos,
                "",
                text,
                &mut self.context,
            )?;
            Result::Ok(text.clone())
        })?;
        if attr.name == known.json {
            let name = &self.derivation.name;
            interp.warn(format!("In derivation '{name}': setting structured attributes via '__json' is deprecated, and may be disallowed in future versions of Nix. Set '__structuredAttrs = true' instead."));
            let json = normal_json(&text)?;
            self.derivation.env.insert(key.into(), json.into());
            return Ok(());
        }
        if attr.name == known.builder {
            self.derivation.builder = text.clone().into();
        } else if attr.name == known.system {
            self.derivation.system = text.clone().into();
        } else if attr.name == known.output_hash {
            self.hash = Some(utf8(&text)?);
        } else if attr.name == known.output_hash_algo {
            self.algo = parse_algo(&text);
        } else if attr.name == known.output_hash_mode {
            self.method = Some(parse_method(&text)?);
        } else if attr.name == known.outputs {
            let names = text
                .split(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
                .filter(|name| !name.is_empty());
            self.outputs = parse_outputs(names)?;
        }
        self.derivation.env.insert(key.into(), text.into());
        Ok(())
    }

    fn structured_attribute<'h>(
        &mut self,
        interp: &Interp<'h>,
        key: &'h [u8],
        attr: &Attr<'h>,
    ) -> Result<()> {
        let known = &interp.known;
        let pos = Pos::NONE;
        if attr.name == known.structured_attrs {
            return Ok(());
        }
        if let Some(json) = &mut self.json {
            if json.len() > 1 {
                json.push(b',');
            }
            interp.json_string(key, json)?;
            json.push(b':');
            interp.write_json(attr.value, pos, true, json, &mut self.context)?;
        }
        let plain = |cell| interp.expect_plain_string(cell, pos, "");
        if attr.name == known.builder {
            let builder = interp.expect_string(attr.value, pos, "")?;
            self.context = interp.contexts.union(self.context, builder.context);
            self.derivation.builder = builder.bytes.into();
        } else if attr.name == known.system {
            self.derivation.system = plain(attr.value)?.bytes.into();
        } else if attr.name == known.output_hash {
            self.hash = Some(utf8(plain(attr.value)?.bytes)?);
        } else if attr.name == known.output_hash_algo {
            self.algo = parse_algo(plain(attr.value)?.bytes);
        } else if attr.name == known.output_hash_mode {
            self.method = Some(parse_method(plain(attr.value)?.bytes)?);
        } else if attr.name == known.outputs {
            let list = interp.expect_list(attr.value, pos, "")?;
            let names = list.items.iter().map(|item| Ok(plain(item)?.bytes));
            self.outputs = parse_outputs(names.collect::<Result<Vec<_>>>()?)?;
        } else if let Ok(text) = std::str::from_utf8(key)
            && OUTPUT_CHECKS.contains(&text)
        {
            let name = &self.derivation.name;
            interp.warn(format!("In a derivation named '{name}', 'structuredAttrs' disables the effect of the derivation attribute '{text}'; use 'outputChecks.<output>.{text}' instead"));
        }
        Ok(())
    }
}

/// Attributes that have no effect with structured attributes.
const OUTPUT_CHECKS: [&str; 6] = [
    "allowedReferences",
    "allowedRequisites",
    "disallowedReferences",
    "disallowedRequisites",
    "maxClosureSize",
    "maxSize",
];

/// Structured attributes that were given as text, formatted as by C++ Nix.
fn normal_json(text: &[u8]) -> Result<Vec<u8>> {
    let cannot = |why: &str| wrong(format!("cannot process __json attribute: {why}"));
    match json::normalize(text, MAX_NESTING) {
        Ok(("object", json)) => Ok(json),
        Ok((kind, _)) => Err(cannot(&format!(
            "[json.exception.type_error.302] type must be object, but is {kind}"
        ))),
        Err(error) => Err(cannot(&error.to_string())),
    }
}

fn utf8(text: &[u8]) -> Result<String> {
    String::from_utf8(text.to_vec()).map_err(|_| wrong("a hash that is not UTF-8"))
}

/// An unknown algorithm counts as none: the hash itself must name its algorithm then.
fn parse_algo(text: &[u8]) -> Option<HashAlgo> {
    String::from_utf8_lossy(text).parse().ok()
}

fn parse_method(text: &[u8]) -> Result<ContentAddressMethod> {
    match text {
        b"recursive" | b"nar" => Ok(ContentAddressMethod::NixArchive),
        b"flat" => Ok(ContentAddressMethod::Flat),
        b"text" => Ok(ContentAddressMethod::Text),
        other => Err(wrong(format!(
            "invalid value '{}' for 'outputHashMode' attribute",
            String::from_utf8_lossy(other)
        ))),
    }
}

fn parse_outputs<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<OutputName>> {
    let mut outputs: Vec<OutputName> = Vec::new();
    for name in names {
        let text = String::from_utf8_lossy(name);
        if text == "drvPath" {
            return Err(wrong(format!("invalid derivation output name '{text}'")));
        }
        let output: OutputName = text
            .parse()
            .map_err(|error| wrong(format!("invalid derivation output name '{text}': {error}")))?;
        if outputs.contains(&output) {
            return Err(wrong(format!("duplicate derivation output '{text}'")));
        }
        outputs.push(output);
    }
    if outputs.is_empty() {
        return Err(wrong("derivation cannot have an empty set of outputs"));
    }
    Ok(outputs)
}

fn instantiate<'h>(interp: &Interp<'h>, mut draft: Draft) -> Result<Value<'h>> {
    let dir = interp.world.settings.store_dir.clone();
    let derivation = &mut draft.derivation;
    if derivation.builder.is_empty() {
        return Err(wrong("required attribute 'builder' missing"));
    }
    if derivation.system.is_empty() {
        return Err(wrong("required attribute 'system' missing"));
    }
    let text_output = draft.method == Some(ContentAddressMethod::Text);
    if derivation.name.as_str().ends_with(".drv") && !text_output {
        return Err(wrong(
            "derivation names are allowed to end in '.drv' only if they produce a single derivation file",
        ));
    }
    if draft.outputs.is_empty() {
        draft.outputs = parse_outputs([b"out".as_slice()])?;
    }
    super::inputs::fill(interp, derivation, draft.context)?;

    if let Some(hash) = &draft.hash {
        if draft.outputs.len() != 1 || draft.outputs[0].as_str() != "out" {
            return Err(wrong(
                "multiple outputs are not supported in fixed-output derivations",
            ));
        }
        let hash = parse_hash(interp, hash, draft.algo)?;
        let method = draft.method.unwrap_or(ContentAddressMethod::Flat);
        let output = Output::Fixed(ContentAddress { method, hash });
        let path = output.path(&dir, &derivation.name, &draft.outputs[0]);
        let Some(path) = path else {
            return Err(wrong(format!(
                "no store path can be computed for the fixed-output derivation '{}'",
                derivation.name
            )));
        };
        derivation
            .env
            .insert("out".into(), dir.path_text(&path).into());
        derivation.outputs.insert(draft.outputs[0].clone(), output);
    } else if draft.floating || draft.impure {
        let algo = draft.algo.unwrap_or(HashAlgo::Sha256);
        let method = draft.method.unwrap_or(ContentAddressMethod::NixArchive);
        for output in &draft.outputs {
            derivation
                .env
                .insert(output.as_str().into(), output_placeholder(output).into());
            let kind = if draft.impure {
                Output::Impure { method, algo }
            } else {
                Output::Floating { method, algo }
            };
            derivation.outputs.insert(output.clone(), kind);
        }
    } else {
        for output in &draft.outputs {
            derivation
                .env
                .insert(output.as_str().into(), BString::default());
            derivation.outputs.insert(output.clone(), Output::Deferred);
        }
    }

    let derivations = &interp.derivations;
    let completed = derivation
        .complete(&dir, |path| derivations.modulo(path))
        .map_err(|error| wrong(error.to_string()))?;
    let path = completed.path;
    let derivation = Arc::new(draft.derivation);
    let is_new = derivations.insert(
        path.clone(),
        Instantiated {
            derivation: derivation.clone(),
            modulo: completed.modulo,
        },
    );
    let modulo = || derivation.realisation_hash(&dir, |path| derivations.modulo(path));
    if is_new && !interp.world.host.derivation(&path, &derivation, modulo()) {
        return Err(Error::new(
            ErrorKind::Cancelled,
            "the evaluation was cancelled",
        ));
    }

    let mut entries = Vec::with_capacity(draft.outputs.len() + 1);
    let deep = interp.contexts.single(ContextElement::Deep(path.clone()));
    entries.push(Attr {
        name: interp.known.drv_path,
        pos: Pos::NONE,
        value: interp.cell(interp.string(dir.path_text(&path), deep)),
    });
    for ((output, _), output_path) in derivation.outputs.iter().zip(&completed.outputs) {
        let context = interp.contexts.single(ContextElement::Output {
            drv_path: path.clone(),
            output: output.clone(),
        });
        let text = match output_path {
            Some(path) => dir.path_text(path),
            None => {
                upstream_placeholder(&path, output).map_err(|error| wrong(error.to_string()))?
            }
        };
        entries.push(Attr {
            name: interp.intern(output.as_str()),
            pos: Pos::NONE,
            value: interp.cell(interp.string(text, context)),
        });
    }
    Ok(interp.attrs(entries))
}

/// Parses a declared hash. An empty text stands for a hash that no contents have.
fn parse_hash(interp: &Interp<'_>, text: &str, algo: Option<HashAlgo>) -> Result<NixHash> {
    if text.is_empty() {
        let Some(algo) = algo else {
            return Err(wrong("empty hash requires explicit hash algorithm"));
        };
        let nothing = vec![0; algo.digest_len()];
        let hash = NixHash::from_digest(algo, &nothing)
            .ok_or_else(|| wrong("a digest has the length of its algorithm"))?;
        interp.warn(format!("found empty hash, assuming '{}'", hash));
        return Ok(hash);
    }
    text::parse_hash(text, algo)
}
