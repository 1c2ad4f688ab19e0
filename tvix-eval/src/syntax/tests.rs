//! Unit tests of the parser. Comparisons with C++ Nix are in `tests/`.

use crate::heap::Heap;

use super::*;
use crate::source::{Origin, Sources};
use crate::value::{Slot, Value};

struct World<'h> {
    heap: &'h Heap,
    symbols: Symbols<'h>,
    sources: Sources<'h>,
    scope: Scope<'h>,
}

impl<'h> World<'h> {
    fn new(heap: &'h Heap) -> Self {
        let symbols = Symbols::new(heap);
        let mut scope = Scope::new();
        for name in [
            "true",
            "map",
            "__sub",
            "__lessThan",
            "__findFile",
            "__nixPath",
        ] {
            scope.insert(
                symbols.intern(name.as_bytes()),
                heap.alloc(Slot::new(Value::Null)),
            );
        }
        Self {
            heap,
            symbols,
            sources: Sources::default(),
            scope,
        }
    }

    fn context<'a>(&'a self, scope: &'a Scope<'h>) -> Context<'a, 'h> {
        Context {
            heap: self.heap,
            symbols: &self.symbols,
            base: b"/base",
            home: Home::At(b"/home"),
            scope,
            depth_limit: 5_000,
            warn: &|_| {},
        }
    }

    fn source(&self, text: &[u8]) -> Source<'h> {
        self.sources
            .add(Origin::Text, self.heap.copy_text(text))
            .unwrap()
    }

    fn parse(&self, text: &str) -> Result<&'h Expr<'h>, SyntaxError> {
        parse(&self.context(&self.scope), self.source(text.as_bytes()))
    }

    fn print(&self, text: &str) -> String {
        let source = self.source(text.as_bytes());
        match parse_unresolved(&self.context(&self.scope), source) {
            Ok(expr) => String::from_utf8(print(&self.symbols, expr)).unwrap(),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    fn error(&self, text: &str) -> String {
        let Err(error) = self.parse(text) else {
            panic!("{text} was parsed");
        };
        let place = |pos| {
            let place = self.sources.place(pos).unwrap();
            format!("{}:{}", place.line, place.column)
        };
        let other = error.other.map(|other| format!(" at {}", place(other)));
        format!("{}: {error}{}", place(error.pos), other.unwrap_or_default())
    }
}

#[track_caller]
fn shows(text: &str, expected: &str) {
    let heap = Heap::new();
    assert_eq!(World::new(&heap).print(text), expected);
}

#[track_caller]
fn fails(text: &str, expected: &str) {
    let heap = Heap::new();
    assert_eq!(World::new(&heap).error(text), expected);
}

#[test]
fn operators() {
    shows("1 + 2 * 3 - 4", "(__sub (1 + (__mul 2 3)) 4)");
    shows("a // b // c", "(a // (b // c))");
    shows("a ++ b ++ c", "(a ++ (b ++ c))");
    shows("a -> b -> c", "(a -> (b -> c))");
    shows("!a + b == c", "((! (a + b)) == c)");
    shows("a * !b + c", "(__mul a (! (b + c)))");
    shows("-a ? b", "(((__sub 0 a)) ? b)");
    shows("a >= b", "(! (__lessThan a b))");
    shows("a <= b", "(! (__lessThan b a))");
    shows("(f a) b", "(f a b)");
    shows("(1 - 2) 3", "(__sub 1 2 3)");
    shows("f or x", "(f or x)");
    shows("a.b or c.d or e f", "((a).b or ((c).d or (e)) f)");
    fails("1 == 2 == 3", "1:8: syntax error, unexpected '=='");
    fails("1 < 2 < 3", "1:7: syntax error, unexpected '<'");
    fails("1 == !2 == 3", "1:9: syntax error, unexpected '=='");
    fails("{ } ? a ? b", "1:9: syntax error, unexpected '?'");
    fails(
        "1 |> 2",
        "1:3: experimental Nix feature 'pipe-operators' is disabled; \
         add '--extra-experimental-features pipe-operators' to enable it",
    );
}

#[test]
fn sets() {
    shows(
        "{ a.b.c = 1; a.b.d = 2; a = { e = 3; }; }",
        "{ a = { b = { c = 1; d = 2; }; e = 3; }; }",
    );
    shows(
        "{ a = rec { b = 1; }; a.c = b; }",
        "{ a = rec { b = 1; c = b; }; }",
    );
    shows(
        "{ a.c = b; a = rec { b = 1; }; }",
        "{ a = { b = 1; c = b; }; }",
    );
    shows(
        "{ a = { inherit (x) b; }; a = { inherit (y) c; inherit d; ${e} = 1; }; }",
        "{ a = { inherit d; inherit (x) b; inherit (y) c; \"${e}\" = 1; }; }",
    );
    shows("{ ${\"a\"}.\"b\" = 1; }", "{ a = { b = 1; }; }");
    shows(
        "let { a = 1; body = a; }",
        "(rec { a = 1; body = a; }).body",
    );
    for (text, expected) in [
        (
            "{ a = 1; a = 2; }",
            "1:10: attribute 'a' already defined at 1:3",
        ),
        (
            "{ a.b = 1; a.b = 2; }",
            "1:12: attribute 'a.b' already defined at 1:3",
        ),
        (
            "{ a.b = 1; a.b.c = 2; }",
            "1:12: attribute 'a.b' already defined at 1:3",
        ),
        (
            "x: { inherit x; x.y = 2; }",
            "1:17: attribute 'x' already defined at 1:14",
        ),
        (
            "{ b = 1; a = 1; b = 2; a = 2; }",
            "1:17: attribute 'b' already defined at 1:3",
        ),
    ] {
        fails(text, expected);
    }
    fails(
        "let ${\"a\" + \"b\"} = 1; in 1",
        "1:1: dynamic attributes not allowed in let",
    );
    fails(
        "{ inherit ${1}; }",
        "1:11: dynamic attributes not allowed in inherit",
    );
}

#[test]
fn functions() {
    shows("{ a, b ? 1, }@c: a", "({ a, b ? 1 } @ c: a)");
    shows("c@{ ... }: c", "({ ... } @ c: c)");
    shows("{ }: x: x", "({  }: (x: x))");
    fails("{ a, a }: 1", "1:6: duplicate formal function argument 'a'");
    fails("x@{ x }: 1", "1:1: duplicate formal function argument 'x'");
    fails(
        "{ ..., a }: 1",
        "1:6: syntax error, unexpected ',', expecting '}'",
    );
}

#[test]
fn strings() {
    shows(r#""a\n\${b}$${c}$""#, r#""a\n\${b}$\${c}$""#);
    shows("\"a\r\nb\rc\"", r#""a\nb\nc""#);
    shows("''\n  a\n    b\n  ''", r#""a\n  b\n""#);
    shows("''\n  a\n ${b}''", r#"(" a\n" + b)"#);
    shows(
        r"''a'''b''$c''\nd''",
        r#"("a" + "''" + "b" + "$" + "c" + "\n" + "d")"#,
    );
    shows("''\n\n''", r#""\n""#);
    fails(
        "\"a",
        "1:3: syntax error, unexpected end of file, expecting '\"'",
    );
    fails(
        "\"a\0b\"",
        "1:2: input string 'a␀b' cannot be represented as Nix string because it contains null bytes",
    );
}

#[test]
fn words() {
    shows("00.5", "(0 0.5)");
    shows("1. .5 1.e3", "(1 0.5 1000)");
    shows("./. ", "/base");
    shows("../a/../b", "/b");
    shows("~/a", "/home/a");
    shows("./a${b}/c", "(/base/a + b + \"/c\")");
    shows("./${b}", "(/base/ + b)");
    shows("x:y", "\"x:y\"");
    shows("x: y", "(x: y)");
    shows("a.b/c", "/base/a.b/c");
    shows("a /b", "(a /b)");
    shows("<a/b>", "(__findFile __nixPath \"a/b\")");
    shows("1 # a\r+ 2 /* b **/", "(1 + 2)");
    shows("1 \0 anything", "1");
    fails("./a/", "1:1: path has a trailing slash");
    fails(
        "./a//b",
        "1:1: syntax error, unexpected end of path, expecting '${'",
    );
    fails(
        "9223372036854775808",
        "1:1: invalid integer '9223372036854775808'",
    );
    fails("1.5e999", "1:1: invalid float '1.5e999'");
    fails("^", "1:1: syntax error, unexpected invalid token");
    fails(
        "{ a = 1 }",
        "1:9: syntax error, unexpected '}', expecting ';'",
    );
    fails(
        "1 )",
        "1:3: syntax error, unexpected ')', expecting end of file",
    );
    fails("1 /* b", "1:4: syntax error, unexpected '*'");
}

#[test]
fn variables() {
    let heap = Heap::new();
    let world = World::new(&heap);
    assert_eq!(world.error("x: y"), "1:4: undefined variable 'y'");
    // The table is clean after an error.
    assert_eq!(world.error("x"), "1:1: undefined variable 'x'");
    assert!(matches!(world.parse("map"), Ok(Expr::Global(_))));
    let Ok(Expr::With(with)) = world.parse("with map; true") else {
        panic!("a with");
    };
    assert!(matches!(with.body, Expr::Global(_)));
    let Ok(Expr::Lambda(lambda)) = world.parse("x: with x; y: [ x y z ]") else {
        panic!("a function");
    };
    let Expr::With(with) = &lambda.body else {
        panic!("a with");
    };
    let Expr::Lambda(inner) = &with.body else {
        panic!("a function");
    };
    let Expr::List(list) = &inner.body else {
        panic!("a list");
    };
    let items = &list.items;
    assert!(matches!(
        items[0].expr,
        Expr::Outer {
            level: 2,
            slot: 0,
            ..
        }
    ));
    assert!(matches!(items[1].expr, Expr::Local { slot: 0, .. }));
    let Expr::WithName(name) = &items[2].expr else {
        panic!("a variable of the with");
    };
    assert_eq!((name.depth, name.scope.depth), (3, 2));
}

#[test]
fn slots() {
    let heap = Heap::new();
    let world = World::new(&heap);
    let text = "a: let inherit a; b = c; inherit (b) c; in { inherit (c) d; }";
    let Ok(Expr::Lambda(lambda)) = world.parse(text) else {
        panic!("a function");
    };
    let Expr::Let(let_in) = &lambda.body else {
        panic!("a let");
    };
    let slot = |index: usize| match &let_in.attrs.defs[index].value.expr {
        Expr::Local { slot, .. } => *slot,
        Expr::Select(select) => match select.base {
            Expr::Local { slot, .. } => slot,
            _ => panic!("a selection from a slot"),
        },
        _ => panic!("a slot"),
    };
    // `a` is bound in the enclosing scope, `b` is the third slot, and `c` is selected from the
    // fourth.
    assert_eq!((slot(0), slot(1), slot(2)), (0, 2, 3));
    let from = &let_in.attrs.from[0].expr;
    assert!(matches!(from, Expr::Local { slot: 1, .. }));
    let Expr::AttrSet(set) = &let_in.body else {
        panic!("a set");
    };
    assert!(matches!(set.from[0].expr, Expr::Local { slot: 2, .. }));
    let Expr::Select(select) = &set.defs[0].value.expr else {
        panic!("a selection");
    };
    assert!(matches!(select.base, Expr::Local { slot: 0, .. }));
}

#[test]
fn shadowed_operators() {
    let heap = Heap::new();
    let world = World::new(&heap);
    let is_call = |expr: &Expr<'_>| matches!(expr, Expr::Call(_));
    assert!(matches!(world.parse("1 - 2"), Ok(Expr::Binary(_))));
    let Ok(Expr::Lambda(lambda)) = world.parse("__sub: 1 - 2 - 3") else {
        panic!("a function");
    };
    assert!(is_call(&lambda.body));
    let Ok(Expr::Lambda(lambda)) = world.parse("__lessThan: 1 <= 2") else {
        panic!("a function");
    };
    assert!(matches!(&lambda.body, Expr::Not(not) if is_call(&not.operand)));
    let below = std::rc::Rc::new(Scope::new());
    let value = heap.alloc(Slot::new(Value::Null));
    let layer = Scope::layered(below, [(world.symbols.intern(b"__sub"), value)]);
    let parsed = parse(&world.context(&layer), world.source(b"-1"));
    assert!(matches!(parsed, Ok(expr) if is_call(expr)));
}

/// Runs on a stack of the documented size; debug builds need more.
fn on_a_stack(run: impl FnOnce() + Send + 'static) {
    let size = if cfg!(debug_assertions) { 128 } else { 16 };
    std::thread::Builder::new()
        .stack_size(size << 20)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

const NESTINGS: [(&str, &str, &str); 10] = [
    ("(", "1", ")"),
    ("[", "", "]"),
    ("x: ", "x", ""),
    ("{ a = ", "1", "; }"),
    ("{ a ? ", "1", " }: 1"),
    ("\"${", "\"\"", "}\""),
    ("if true then 1 else ", "2", ""),
    ("with true; ", "2", ""),
    ("map true (-", "2", ")"),
    ("{ ${", "1", "} = 1; }"),
];

#[test]
fn ten_thousand_levels_are_read() {
    on_a_stack(|| {
        for (open, inner, close) in NESTINGS {
            let heap = Heap::new();
            let world = World::new(&heap);
            let mut cx = world.context(&world.scope);
            cx.depth_limit = 10_100;
            let text = open.repeat(10_000) + inner + &close.repeat(10_000);
            let parsed = parse(&cx, world.source(text.as_bytes()));
            assert!(parsed.is_ok(), "{open}: {:?}", parsed.err());
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "too many levels")]
fn levels_need_no_stack_of_the_caller() {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let parse_all = || {
        for (open, inner, close) in NESTINGS {
            let heap = Heap::new();
            let world = World::new(&heap);
            let mut cx = world.context(&world.scope);
            cx.depth_limit = 200_000;
            let many = if open == "x: " || open.starts_with("with") {
                60_000
            } else {
                100_000
            };
            let text = open.repeat(many) + inner + &close.repeat(many);
            let parsed = parse(&cx, world.source(text.as_bytes()));
            assert!(parsed.is_ok(), "{open}: {:?}", parsed.err());
        }
    };
    thread.spawn(parse_all).unwrap().join().unwrap();
}

#[test]
fn parentheses_that_begin_together_need_no_levels() {
    let heap = Heap::new();
    let world = World::new(&heap);
    for (inner, more) in [
        ("1", ")"),
        ("map", " true)"),
        ("map", ".a)"),
        ("1", " + 1)"),
        ("map", " ? a)"),
    ] {
        let text = "(".repeat(100_000) + inner + &more.repeat(100_000);
        assert!(world.parse(&text).is_ok(), "{more}");
    }
    assert_eq!(world.print("((1 + 2) * 3)"), world.print("(1 + 2) * 3"));
    assert_eq!(
        world.print("(((map true) true) ? a)"),
        world.print("((map true true) ? a)")
    );
}

#[test]
fn more_levels_than_the_limit_are_an_error() {
    on_a_stack(|| {
        let heap = Heap::new();
        let world = World::new(&heap);
        let many = 100_000;
        for (open, inner, close) in NESTINGS.iter().skip(1) {
            let text = open.repeat(many) + inner + &close.repeat(many);
            assert!(world.error(&text).ends_with("too deeply nested"), "{open}");
        }
        let path = format!("{{ a{} = 1; }}", ".a".repeat(many));
        assert!(world.error(&path).ends_with("too deeply nested"));
        let default = format!("{{ }}{}", ".a or { }".repeat(many));
        assert!(world.error(&default).ends_with("too deeply nested"));
    });
}

#[test]
fn long_chains_need_no_stack() {
    let heap = Heap::new();
    let world = World::new(&heap);
    let many = 100_000;
    for (first, more) in [
        ("1", " + 1"),
        ("1", " - 1"),
        ("[ ]", " ++ [ ]"),
        ("{ }", " // { }"),
        ("true", " -> true"),
        ("true", " && true || true"),
        ("map", " map"),
        ("map", ".a"),
    ] {
        let text = first.to_owned() + &more.repeat(many);
        assert!(world.parse(&text).is_ok(), "{more}");
        assert!(world.print(&text).len() > text.len() / 2);
    }
    for prefix in ["!", "-"] {
        assert!(world.parse(&(prefix.repeat(many) + "1")).is_ok());
    }
}

/// Pieces of programs in any order: the parser does not panic, and printed expressions can be
/// parsed again.
#[test]
fn any_order_of_words() {
    const WORDS: &[&str] = &[
        "a",
        "b",
        "or",
        "if",
        "then",
        "else",
        "let",
        "in",
        "rec",
        "with",
        "assert",
        "inherit",
        "1",
        "1.5",
        ".5",
        "\"",
        "''",
        "${",
        "}",
        "{",
        "(",
        ")",
        "[",
        "]",
        ";",
        ":",
        ",",
        "@",
        "=",
        "==",
        "!=",
        "!",
        "-",
        "->",
        "+",
        "++",
        "*",
        "/",
        "//",
        "/*",
        "*/",
        "<",
        "<=",
        "<a>",
        "?",
        ".",
        "...",
        "./a",
        "~/",
        "x:y",
        "$",
        "\\",
        "\n",
        " ",
        " ",
        " ",
        "\r",
        "\0",
        "'",
        "#",
        "~",
        "|>",
        "a = b;",
        "{ a, b ? c }:",
        "x:",
        "\u{e9}",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let heap = Heap::new();
        let world = World::new(&heap);
        let mut text = String::new();
        for _ in 0..12 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text += WORDS[(state >> 33) as usize % WORDS.len()];
        }
        _ = world.parse(&text);
        let cx = world.context(&world.scope);
        if let Ok(expr) = parse_unresolved(&cx, world.source(text.as_bytes())) {
            let printed = print(&world.symbols, expr);
            // Assertions are printed without parentheses, and unterminated paths cannot be parsed
            // again.
            if !text.contains("assert") && !text.contains('/') {
                world.print(std::str::from_utf8(&printed).unwrap());
            }
        }
    }
}
