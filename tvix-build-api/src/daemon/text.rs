//! Messages of daemons as plain text.

/// A text without the escape sequences that Nix colours messages with, and without other control
/// characters than line breaks and tabs.
pub(super) fn plain(text: &[u8]) -> String {
    let error = tvix_worker_protocol::RemoteError::new(text);
    error.to_string()
}

/// The text after another one, up to the end of the line.
pub(super) fn rest_of_line<'t>(text: &'t str, before: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.lines().next().map(str::trim)
}

/// The number at the beginning of a text.
pub(super) fn number(text: &str) -> Option<i32> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}
