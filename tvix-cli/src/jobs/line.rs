//! A line of JSON for a job.

use std::collections::BTreeMap;
use std::fmt;

use nix_compat::store_path::{StoreDir, StorePath};
use serde_json::{Value, json};
use tvix_eval_api::{AttrPath, EvalCost, EvalError, Root};

use crate::error::after;

/// How lines are written.
#[derive(Debug, Clone)]
pub struct Format {
    pub dir: StoreDir,
    pub input_drvs: bool,
}

/// A job, or an error.
#[derive(Debug)]
pub struct Line {
    json: BTreeMap<&'static str, Value>,
    /// Its output paths; `None` for those that are known only after a build.
    pub outputs: Vec<Option<StorePath>>,
    /// Its derivation, for a job.
    pub drv_path: Option<StorePath>,
}

impl Line {
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.json.insert(key, value.into());
    }

    fn new(attr: &str, path: Vec<String>) -> Self {
        let mut line = Self {
            json: BTreeMap::new(),
            outputs: Vec::new(),
            drv_path: None,
        };
        line.set("attr", attr);
        line.set("attrPath", path);
        line
    }

    fn set_derivation(&mut self, dir: &StoreDir, drv_path: &StorePath) {
        self.set("drvPath", dir.path_text(drv_path));
        self.drv_path = Some(drv_path.clone());
    }

    fn set_cost(&mut self, cost: &EvalCost) {
        self.set("evalSeconds", cost.time.as_secs_f64());
        self.set("evalBytes", cost.bytes);
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(&self.json).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl Format {
    /// The line of a job.
    pub fn job(&self, root: &Root) -> Line {
        let drv_path = &root.wanted.drv_path;
        let Some(job) = &root.job else {
            let mut line = Line::new(&root.name, AttrPath::new(root.name.as_str()).names);
            line.set_derivation(&self.dir, drv_path);
            return line;
        };
        let mut line = Line::new(&root.name, job.attr_path.clone());
        let derivation = &job.derivation;
        line.set_derivation(&self.dir, drv_path);
        line.set("name", job.name.as_str());
        line.set("system", derivation.system.to_string());
        let outputs = derivation.output_paths(&self.dir);
        let outputs = outputs.map(|(name, path)| {
            let text = path.as_ref().map(|path| self.dir.path_text(path));
            line.outputs.push(path);
            (name.to_string(), json!(text))
        });
        let outputs: BTreeMap<_, _> = outputs.collect();
        line.set("outputs", json!(outputs));
        if self.input_drvs {
            let inputs = derivation.input_drvs.iter().map(|(path, outputs)| {
                let outputs: Vec<_> = outputs.iter().map(ToString::to_string).collect();
                (self.dir.path_text(path), json!(outputs))
            });
            let inputs: BTreeMap<_, _> = inputs.collect();
            line.set("inputDrvs", json!(inputs));
        }
        if let Some(meta) = &job.meta {
            // The evaluator wrote valid JSON.
            let meta = serde_json::from_str::<Value>(meta).unwrap_or_default();
            line.set("meta", meta);
        }
        line.set_cost(&job.cost);
        line
    }

    /// The line of an error.
    pub fn error(&self, error: &EvalError) -> Line {
        let failure = error.failure();
        let (attr, names) = match failure.attr_path {
            Some(path) => (path.text, path.names),
            None => (String::new(), Vec::new()),
        };
        let mut line = Line::new(&attr, names);
        line.set("error", after("error", &failure.message));
        line.set("errorKind", json!(failure.kind));
        if let Some(position) = failure.position {
            line.set("errorPosition", json!(position));
        }
        if let Some(drv_path) = &failure.drv_path {
            line.set("errorDrvPath", self.dir.path_text(drv_path));
        }
        if let Some(cost) = error.place().and_then(|place| place.cost.as_ref()) {
            line.set_cost(cost);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nix_compat::derivation::DerivationBuilder;
    use tvix_eval_api::{JobDetails, WantedOutputs};

    use super::*;

    #[test]
    fn keys_are_those_of_nix_eval_jobs() {
        let dir = StoreDir::default();
        let made = DerivationBuilder::new("hello-1", "x86_64-linux", "/bin/sh");
        let made = made.instantiate(&dir).unwrap();
        let wanted = WantedOutputs::new(made.path.clone(), Vec::new());
        let path = vec!["a.b".to_owned(), "hello".to_owned()];
        let details = JobDetails::new("hello-1", path, Arc::clone(&made.derivation));
        let details = details.with_meta(Some(r#"{"x":1}"#.to_owned()));
        let root = Root::new("\"a.b\".hello", wanted).with_job(details);
        let format = Format {
            dir: dir.clone(),
            input_drvs: true,
        };
        let line = format.job(&root);
        assert_eq!(line.outputs, [made.output_path("out")]);
        let out = dir.path_text(&made.output_path("out").unwrap());
        let found: Value = serde_json::from_str(&line.to_string()).unwrap();
        let expected = json!({
            "attr": "\"a.b\".hello", "attrPath": ["a.b", "hello"], "name": "hello-1",
            "system": "x86_64-linux", "drvPath": dir.path_text(&made.path),
            "outputs": { "out": out }, "inputDrvs": {}, "meta": { "x": 1 },
            "evalSeconds": 0.0, "evalBytes": 0,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn errors_have_kinds() {
        let format = Format {
            dir: StoreDir::default(),
            input_drvs: false,
        };
        let line = format.error(&EvalError::attribute_not_found("a.b"));
        let found: Value = serde_json::from_str(&line.to_string()).unwrap();
        let expected = json!({
            "attr": "a.b", "attrPath": ["a", "b"], "errorKind": "attributeNotFound",
            "error": "error: attribute 'a.b' not found",
        });
        assert_eq!(found, expected);
    }
}
