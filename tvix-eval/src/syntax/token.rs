//! Tokens.

/// A kind of token. The order of variants matters: see [`Tok::starts_operand`] and
/// [`Tok::is_operator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tok {
    Eof,
    /// A lexical error, which is in [`Lexer::error`](super::lexer::Lexer::error). No rule accepts this token.
    Error,
    /// A byte that starts no token.
    Invalid,
    // Tokens that start an operand.
    Ident,
    Int,
    Float,
    Quote,
    IndOpen,
    Path,
    HomePath,
    SearchPath,
    Uri,
    LParen,
    LBrace,
    LBracket,
    Let,
    Rec,
    // Tokens that do not.
    RParen,
    RBrace,
    RBracket,
    Or,
    If,
    Then,
    Else,
    Assert,
    With,
    In,
    Inherit,
    DollarCurly,
    Ellipsis,
    Dot,
    Comma,
    Colon,
    Semicolon,
    At,
    Assign,
    Not,
    // Binary operators.
    Implies,
    OrOr,
    AndAnd,
    Equal,
    NotEqual,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
    Update,
    Plus,
    Minus,
    Times,
    Divide,
    Concat,
    Question,
}

impl Tok {
    #[inline]
    pub(super) fn starts_operand(self) -> bool {
        (Tok::Ident as u8..=Tok::Rec as u8).contains(&(self as u8))
    }

    /// Whether an expression ends before this token.
    #[inline]
    pub(super) fn ends_expression(self) -> bool {
        matches!(
            self,
            Tok::Semicolon
                | Tok::Comma
                | Tok::RParen
                | Tok::RBrace
                | Tok::RBracket
                | Tok::Then
                | Tok::Else
                | Tok::In
        )
    }

    #[inline]
    pub(super) fn is_operator(self) -> bool {
        self as u8 >= Tok::Implies as u8
    }
}

/// The name of a token in messages.
pub(super) fn describe(tok: Tok) -> &'static str {
    match tok {
        Tok::Eof => "end of file",
        Tok::Error | Tok::Invalid => "invalid token",
        Tok::Ident => "identifier",
        Tok::Int => "integer",
        Tok::Float => "floating-point literal",
        Tok::Quote => "'\"'",
        Tok::IndOpen => "start of an indented string",
        Tok::Path => "path",
        Tok::HomePath => "'~/…' path",
        Tok::SearchPath => "'<…>' path",
        Tok::Uri => "URI",
        Tok::LParen => "'('",
        Tok::RParen => "')'",
        Tok::LBrace => "'{'",
        Tok::RBrace => "'}'",
        Tok::LBracket => "'['",
        Tok::RBracket => "']'",
        Tok::Let => "'let'",
        Tok::Rec => "'rec'",
        Tok::Or => "'or'",
        Tok::If => "'if'",
        Tok::Then => "'then'",
        Tok::Else => "'else'",
        Tok::Assert => "'assert'",
        Tok::With => "'with'",
        Tok::In => "'in'",
        Tok::Inherit => "'inherit'",
        Tok::DollarCurly => "'${'",
        Tok::Ellipsis => "'...'",
        Tok::Dot => "'.'",
        Tok::Comma => "','",
        Tok::Colon => "':'",
        Tok::Semicolon => "';'",
        Tok::At => "'@'",
        Tok::Assign => "'='",
        Tok::Not => "'!'",
        Tok::Implies => "'->'",
        Tok::OrOr => "'||'",
        Tok::AndAnd => "'&&'",
        Tok::Equal => "'=='",
        Tok::NotEqual => "'!='",
        Tok::Less => "'<'",
        Tok::Greater => "'>'",
        Tok::LessOrEqual => "'<='",
        Tok::GreaterOrEqual => "'>='",
        Tok::Update => "'//'",
        Tok::Plus => "'+'",
        Tok::Minus => "'-'",
        Tok::Times => "'*'",
        Tok::Divide => "'/'",
        Tok::Concat => "'++'",
        Tok::Question => "'?'",
    }
}
