//! Credentials in the files that the AWS tools read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::BoxError;

/// The environment, which tests replace.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Keys of an account.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

/// Without secrets.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The keys that Nix would use, if there are any: those of the environment, and else those of the
/// profile `chosen`, of `AWS_PROFILE`, or of the profile `default`.
///
/// # Errors
///
/// If a chosen profile has no keys.
pub(super) fn keys(chosen: Option<&str>, env: Environment<'_>) -> Result<Option<Keys>, BoxError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    if let (Some(id), Some(secret)) = (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) {
        let token = env("AWS_SESSION_TOKEN");
        return Ok(Some(Keys { id, secret, token }));
    }
    let from_environment = env("AWS_PROFILE");
    let chosen = chosen.or(from_environment.as_deref());
    let name = chosen.unwrap_or("default");
    let home = env("HOME").map(|home| Path::new(&home).join(".aws"));
    let file = |variable: &str, name: &str| -> Option<PathBuf> {
        let given = env(variable).map(PathBuf::from);
        given.or_else(|| Some(home.as_ref()?.join(name)))
    };
    let files = [
        (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), false),
        (file("AWS_CONFIG_FILE", "config"), true),
    ];
    let mut profile = BTreeMap::new();
    let mut places = Vec::new();
    for (file, is_config) in files {
        let Some(file) = file else { continue };
        places.push(format!("'{}'", file.display()));
        // What the file of credentials says comes first.
        for (key, value) in read(&file, name, is_config)? {
            profile.entry(key).or_insert(value);
        }
    }
    let mut take = |key: &str| profile.remove(key).filter(|value| !value.is_empty());
    match (take("aws_access_key_id"), take("aws_secret_access_key")) {
        (Some(id), Some(secret)) => {
            let token = take("aws_session_token");
            Ok(Some(Keys { id, secret, token }))
        }
        _ if chosen.is_none() => Ok(None),
        _ => {
            let places = places.join(" or ");
            Err(format!("AWS profile '{name}' has no access key in {places}").into())
        }
    }
}

/// The settings of a profile in a file, which may be missing.
fn read(file: &Path, profile: &str, is_config: bool) -> Result<Vec<(String, String)>, BoxError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(parse(&text, profile, is_config)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("cannot read '{}': {error}", file.display()).into()),
    }
}

/// Sections are `[name]`, in files of settings `[profile name]` for all but `default`. Indented
/// lines belong to the setting above them.
fn parse(text: &str, profile: &str, is_config: bool) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let indented = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            let section = section.split(']').next().unwrap_or_default().trim();
            inside = match section.split_once(char::is_whitespace) {
                Some(("profile", name)) if is_config => name.trim() == profile,
                Some(_) => false,
                None => section == profile && (!is_config || profile == "default"),
            };
            continue;
        }
        if let Some((key, value)) = line.split_once('=').filter(|_| inside && !indented) {
            settings.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "# comment\n[default]\naws_access_key_id = D\n\
        aws_secret_access_key=ds\n\n[work]\nAWS_ACCESS_KEY_ID=W\naws_secret_access_key = w/s+=\n\
        aws_session_token = t\n[half]\naws_access_key_id = H\n";
    const CONFIG: &str = "[default]\nregion = x\n[profile half]\naws_access_key_id = other\n\
        aws_secret_access_key = hs\n[work]\naws_access_key_id = wrong\n[ profile  deep ]\n\
        s3 =\n  aws_access_key_id = nested\naws_access_key_id = P\naws_secret_access_key = ps\n";

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let files = Self(tempfile::TempDir::new().unwrap());
            let folder = files.0.path().join(".aws");
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("credentials"), CREDENTIALS).unwrap();
            std::fs::write(folder.join("config"), CONFIG).unwrap();
            files
        }

        fn keys(
            &self,
            chosen: Option<&str>,
            more: &[(&str, &str)],
        ) -> Result<Option<Keys>, BoxError> {
            let home = self.0.path().to_str().unwrap().to_owned();
            let env = |name: &str| {
                let given = more.iter().find(|(it, _)| *it == name);
                let given = given.map(|(_, value)| (*value).to_owned());
                given.or_else(|| (name == "HOME").then(|| home.clone()))
            };
            keys(chosen, &env)
        }

        fn id(&self, chosen: Option<&str>, more: &[(&str, &str)]) -> Option<String> {
            self.keys(chosen, more).unwrap().map(|keys| keys.id)
        }
    }

    #[test]
    fn profiles() {
        let files = Files::new();
        let id = |chosen, more: &[(&str, &str)]| files.id(chosen, more);
        assert_eq!(id(None, &[]).as_deref(), Some("D"));
        assert_eq!(id(Some("work"), &[]).as_deref(), Some("W"));
        assert_eq!(id(None, &[("AWS_PROFILE", "work")]).as_deref(), Some("W"));
        assert_eq!(
            id(Some("deep"), &[("AWS_PROFILE", "work")]).as_deref(),
            Some("P")
        );
        // Of two files, settings of the credentials come first.
        assert_eq!(id(Some("half"), &[]).as_deref(), Some("H"));
        let work = files.keys(Some("work"), &[]).unwrap().unwrap();
        assert_eq!(
            (work.secret.as_str(), work.token.as_deref()),
            ("w/s+=", Some("t"))
        );
        assert!(!format!("{work:?}").contains("w/s"), "{work:?}");
    }

    #[test]
    fn the_environment_comes_first() {
        let files = Files::new();
        let both = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "es")];
        assert_eq!(files.id(None, &both).as_deref(), Some("E"));
        assert_eq!(files.id(Some("work"), &both).as_deref(), Some("E"));
        assert_eq!(files.id(None, &both[..1]).as_deref(), Some("D"));
        let other = files.0.path().join("other");
        std::fs::write(
            &other,
            "[default]\naws_access_key_id=O\naws_secret_access_key=s\n",
        )
        .unwrap();
        let other = other.to_str().unwrap();
        let found = files.id(None, &[("AWS_SHARED_CREDENTIALS_FILE", other)]);
        assert_eq!(found.as_deref(), Some("O"));
        let neither = [
            ("AWS_SHARED_CREDENTIALS_FILE", "/none"),
            ("AWS_CONFIG_FILE", other),
        ];
        assert_eq!(files.id(None, &neither).as_deref(), Some("O"));
    }

    #[test]
    fn none() {
        let files = Files::new();
        let nowhere = [("HOME", "/nowhere")];
        assert_eq!(files.keys(None, &nowhere).unwrap(), None);
        for (chosen, more) in [
            (Some("missing"), &[][..]),
            (Some("work"), &nowhere[..]),
            (None, &[("AWS_PROFILE", "missing")][..]),
        ] {
            let error = files.keys(chosen, more).unwrap_err().to_string();
            assert!(
                error.contains("profile") && error.contains("credentials"),
                "{error}"
            );
        }
        let folder = [("AWS_CONFIG_FILE", "/")];
        assert!(files.keys(Some("missing"), &folder).is_err());
    }
}
