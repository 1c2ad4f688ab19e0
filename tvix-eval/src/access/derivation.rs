//! Sets that represent derivations.

use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;

use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::interp::Interp;
use crate::value::{Attrs, Ref, Value};

impl<'h> Interp<'h> {
    /// The derivation that a set represents.
    pub(crate) fn drv_path(&self, attrs: &Attrs<'h>) -> Result<StorePath> {
        let Some(attr) = attrs.get(self.known.drv_path) else {
            let message = "derivation does not contain a 'drvPath' attribute";
            return Err(Error::new(ErrorKind::Missing, message));
        };
        let why = "while evaluating the 'drvPath' attribute of a derivation";
        let text = self.coerce_cell(attr.value, Coercion::STRICT, attr.pos, why)?;
        let message = match self.world.settings.store_dir.parse(text.bytes) {
            Ok(path) if path.is_derivation() => return Ok(path),
            Ok(path) => format!("store path '{path}' is not a valid derivation path"),
            Err(_) => {
                let shown = String::from_utf8_lossy(text.bytes);
                format!("path '{shown}' is not in the Nix store")
            }
        };
        Err(Error::new(ErrorKind::Type, message).within(attr.pos, why))
    }

    /// Builds all outputs of a derivation, as import from derivation does, and returns their store
    /// paths.
    ///
    /// The caller of [`NixEvaluator::spawn`](crate::NixEvaluator::spawn) performs the build.
    /// Evaluations without such a caller fail.
    pub fn build_derivation(&self, cell: Ref<'h>) -> Result<Vec<(OutputName, String)>> {
        let Value::Attrs(attrs) = self.force(cell)? else {
            return Err(Error::new(ErrorKind::Type, "this is not a derivation"));
        };
        if !self.is_derivation(attrs)? {
            let message = "this is a set, but not a derivation";
            return Err(Error::new(ErrorKind::Type, message).at(attrs.pos));
        }
        let drv_path = self.drv_path(attrs)?;
        let known = self.known_derivation(&drv_path)?;
        let outputs: Vec<_> = known.derivation.outputs.iter().collect();
        let outputs = outputs.into_iter().map(|(name, _)| name.clone());
        self.realised_outputs(&drv_path, outputs.collect())
    }
}
