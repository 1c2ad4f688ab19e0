//! Realisations: as JSON by the hash of derivations, or by their path with a feature.

use std::collections::BTreeMap;

use nix_compat::derivation::OutputName;
use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::signature::Signature;
use nix_compat::store_path::StorePath;

use crate::scan::Shape;
use crate::wire::{Codec, Reader, Tagged, Writer};
use crate::{Feature, ProtocolError};

/// The store path of an output, in either form of realisations.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Realised {
    /// The output by the hash of its derivation: without
    /// [`Feature::RealisationWithPath`], and `None` with it.
    pub id: Option<DrvOutput>,
    /// The store path.
    pub path: StorePath,
    /// Signatures. Unverified.
    pub signatures: Vec<Signature>,
    /// The outputs of inputs that a realisation by hash depends on.
    pub dependent_realisations: BTreeMap<DrvOutput, StorePath>,
}

impl Realised {
    /// A store path without signatures.
    pub fn new(path: StorePath) -> Self {
        Self {
            id: None,
            path,
            signatures: Vec::new(),
            dependent_realisations: BTreeMap::new(),
        }
    }

    /// The realisation of the output `id`.
    #[must_use]
    pub fn of(self, id: DrvOutput) -> Realisation {
        Realisation {
            id,
            out_path: self.path,
            signatures: self.signatures,
            dependent_realisations: self.dependent_realisations,
        }
    }
}

impl From<Realisation> for Realised {
    fn from(realisation: Realisation) -> Self {
        let by_hash = matches!(realisation.id.drv, DrvKey::HashModulo(_));
        Self {
            id: Some(realisation.id).filter(|_| by_hash),
            path: realisation.out_path,
            signatures: realisation.signatures,
            dependent_realisations: realisation.dependent_realisations,
        }
    }
}

/// Path and signatures, with [`Feature::RealisationWithPath`].
impl Codec for Realised {
    const SHAPE: Shape = Shape::Sequence(&[Shape::Text, Shape::List(&Shape::Text)]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let path = StorePath::read(reader)?;
        let signatures = Vec::read(reader)?;
        Ok(Self {
            signatures,
            ..Self::new(path)
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        self.path.write(writer);
        self.signatures.write(writer);
    }
}

/// A realisation as JSON, without [`Feature::RealisationWithPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonRealisation(pub Realisation);

impl Codec for JsonRealisation {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.parsed("realisation", |text| -> Result<_, crate::error::BoxError> {
            let value = nix_compat::serde_json::from_str(text)?;
            Ok(Self(Realisation::from_nix_json(&value)?))
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        if let DrvKey::Path(_) = self.0.id.drv {
            let feature = Some(Feature::RealisationWithPath);
            return writer.unsupported("a realisation by path", feature);
        }
        writer.text(self.0.to_nix_json().to_string());
    }
}

/// `sha256:<base 16>!<output>`, without [`Feature::RealisationWithPath`]; a path and a name with it.
impl Codec for DrvOutput {
    const SHAPE: Shape = Shape::With(
        Feature::RealisationWithPath,
        &Shape::Sequence(&[Shape::Text, Shape::Text]),
        &Shape::Text,
    );

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        if reader.has(Feature::RealisationWithPath) {
            let path = StorePath::read(reader)?;
            return Ok(Self::by_path(path, OutputName::read(reader)?));
        }
        reader.parsed(
            "output of a derivation",
            |text| -> Result<Self, crate::error::BoxError> {
                match text.parse()? {
                    Self {
                        drv: DrvKey::Path(_),
                        ..
                    } => Err("it is identified by a path".into()),
                    id => Ok(id),
                }
            },
        )
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let with_path = writer.has(Feature::RealisationWithPath);
        match &self.drv {
            DrvKey::Path(path) if with_path => {
                path.write(writer);
                self.output.write(writer);
            }
            DrvKey::HashModulo(_) if !with_path => writer.text(self.to_string()),
            DrvKey::Path(_) => {
                let feature = Some(Feature::RealisationWithPath);
                writer.unsupported("a realisation by path", feature);
            }
            DrvKey::HashModulo(_) => writer.unsupported("a realisation by hash", None),
        }
    }
}

impl Codec for Realisation {
    const SHAPE: Shape = Shape::With(
        Feature::RealisationWithPath,
        &Shape::Sequence(&[DrvOutput::SHAPE, Realised::SHAPE]),
        &JsonRealisation::SHAPE,
    );

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        if !reader.has(Feature::RealisationWithPath) {
            return Ok(JsonRealisation::read(reader)?.0);
        }
        let id = DrvOutput::read(reader)?;
        Ok(Realised::read(reader)?.of(id))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        if !writer.has(Feature::RealisationWithPath) {
            return JsonRealisation(self.clone()).write(writer);
        }
        self.id.write(writer);
        Realised::from(self.clone()).write(writer);
    }
}

/// The answer to a question for a realisation: a set of at most one by JSON, or an optional one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRealisation(pub Option<Realised>);

impl Codec for FoundRealisation {
    const SHAPE: Shape = Shape::With(
        Feature::RealisationWithPath,
        &Tagged::<Realised>::SHAPE,
        &Vec::<JsonRealisation>::SHAPE,
    );

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        if reader.has(Feature::RealisationWithPath) {
            return Ok(Self(Tagged::read(reader)?.0));
        }
        let found = Vec::<JsonRealisation>::read(reader)?;
        Ok(Self(found.into_iter().next().map(|it| it.0.into())))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        if writer.has(Feature::RealisationWithPath) {
            return Tagged(self.0.clone()).write(writer);
        }
        let out = OutputName::out();
        let found: Vec<_> = self
            .0
            .iter()
            .map(|it| by_hash(it.clone(), out.clone()))
            .collect();
        found.write(writer);
    }
}

/// The form for peers that know derivations by their hash only. They do not look at the hash of a
/// build's own outputs, so zeros do if it is not known.
pub(crate) fn by_hash(realised: Realised, output: OutputName) -> JsonRealisation {
    let id = realised.id.clone();
    let id = id.unwrap_or_else(|| DrvOutput::by_hash([0; 32], output));
    JsonRealisation(realised.of(id))
}
