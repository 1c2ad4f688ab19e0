//! Random programs in which all variables are bound.

use crate::random::Random;

/// The intended type of an expression. One in fifty has another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Bool,
    String,
    List,
    Set,
    Function,
    Drv,
}

const KINDS: [Kind; 7] = [
    Kind::Int,
    Kind::Bool,
    Kind::String,
    Kind::List,
    Kind::Set,
    Kind::Function,
    Kind::Drv,
];

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

struct Writer<'r> {
    random: &'r mut Random,
    scope: Vec<(String, Kind)>,
    fresh: usize,
    numbers: &'static [&'static str],
}

/// Integers that stay small.
const SMALL: &[&str] = &["0", "1", "2", "7", "(-3)", "100"];

/// Floats, and integers that overflow.
const ALL: &[&str] = &[
    "0",
    "1",
    "2",
    "7",
    "(-3)",
    "1.5",
    "0.1",
    "100",
    "9223372036854775807",
    "2.0",
];

/// A program. Old versions of C++ Nix print floats differently, and let integers overflow.
pub fn program(random: &mut Random, modern: bool) -> String {
    let depth = 2 + random.below(4);
    let mut writer = Writer {
        random,
        scope: Vec::new(),
        fresh: 0,
        numbers: if modern { ALL } else { SMALL },
    };
    let kind = writer.kind();
    writer.expr(kind, depth)
}

impl Writer<'_> {
    fn kind(&mut self) -> Kind {
        KINDS[self.random.below(KINDS.len())]
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.random.below(NAMES.len())]
    }

    fn expr(&mut self, kind: Kind, depth: usize) -> String {
        let kind = match self.random.below(50) {
            0 => self.kind(),
            _ => kind,
        };
        if depth == 0 {
            return self.leaf(kind);
        }
        let depth = depth - 1;
        match self.random.below(16) {
            0 => self.bind(kind, depth),
            1 => self.call(kind, depth),
            2 => self.with(kind, depth),
            3 => {
                let (c, a, b) = (
                    self.expr(Kind::Bool, depth),
                    self.expr(kind, depth),
                    self.expr(kind, depth),
                );
                format!("(if {c} then {a} else {b})")
            }
            4 => self.select(kind, depth),
            5 => match self.random.below(8) {
                0 => format!("(throw {})", self.expr(Kind::String, depth)),
                1 => format!(
                    "(assert {}; {})",
                    self.expr(Kind::Bool, depth),
                    self.expr(kind, depth)
                ),
                2 => format!(
                    "(builtins.seq {} {})",
                    self.any(depth),
                    self.expr(kind, depth)
                ),
                3 => format!(
                    "(builtins.deepSeq {} {})",
                    self.any(depth),
                    self.expr(kind, depth)
                ),
                4 => {
                    let list = format!("[ {} {} ]", self.expr(kind, depth), self.any(depth));
                    format!("(builtins.elemAt {list} {})", self.random.below(2))
                }
                5 => format!(
                    "(builtins.head [ {} {} ])",
                    self.expr(kind, depth),
                    self.any(depth)
                ),
                6 => {
                    let (tried, other) = (self.expr(kind, depth), self.expr(kind, depth));
                    format!(
                        "(let t = builtins.tryEval ({tried}); in if t.success then t.value else {other})"
                    )
                }
                _ => self.leaf(kind),
            },
            6 => self.leaf(kind),
            _ => self.of(kind, depth),
        }
    }

    fn any(&mut self, depth: usize) -> String {
        let kind = self.kind();
        self.expr(kind, depth)
    }

    fn leaf(&mut self, kind: Kind) -> String {
        let known: Vec<_> = self
            .scope
            .iter()
            .filter(|(_, k)| *k == kind)
            .map(|(n, _)| n.clone())
            .collect();
        if !known.is_empty() && self.random.below(3) > 0 {
            return known[self.random.below(known.len())].clone();
        }
        match kind {
            Kind::Int => self.random.pick(self.numbers).to_owned(),
            Kind::Bool => self.random.pick(&["true", "false"]).to_owned(),
            Kind::String => self
                .random
                .pick(&[
                    "\"\"",
                    "\"a\"",
                    "\"b-1.2\"",
                    "\"/x/y\"",
                    "''\n    in\n      dented\n  ''",
                    "\"a.b.c\"",
                    "\"\\n\\t\\${}\"",
                    "(builtins.toFile \"f\" \"text\")",
                    "\"é\"",
                    "\"aXbXc\"",
                    "\"12\"",
                ])
                .to_owned(),
            Kind::List => self
                .random
                .pick(&[
                    "[ ]",
                    "[ 1 2 ]",
                    "[ \"a\" \"b\" ]",
                    "[ [ ] [ 1 ] ]",
                    "[ null ]",
                ])
                .to_owned(),
            Kind::Set => self
                .random
                .pick(&[
                    "{ }",
                    "{ a = 1; }",
                    "{ a.b = 1; c = \"x\"; }",
                    "{ b = [ ]; a = { }; }",
                    "{ d = x: x; }",
                ])
                .to_owned(),
            Kind::Function => self
                .random
                .pick(&[
                    "(x: x)",
                    "({ a ? 1, ... }: a)",
                    "builtins.isList",
                    "(x: y: x)",
                    "toString",
                    "(x: [ x ])",
                ])
                .to_owned(),
            Kind::Drv => {
                "(derivation { name = \"n\"; system = \"s\"; builder = \"b\"; })".to_owned()
            }
        }
    }

    fn scoped<T>(&mut self, bound: Vec<(String, Kind)>, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.scope.len();
        self.scope.extend(bound);
        let result = work(self);
        self.scope.truncate(before);
        result
    }

    fn variable(&mut self) -> (String, Kind) {
        self.fresh += 1;
        let kind = self.kind();
        (format!("v{}", self.fresh), kind)
    }

    fn bind(&mut self, kind: Kind, depth: usize) -> String {
        let count = 1 + self.random.below(3);
        let bound: Vec<_> = (0..count).map(|_| self.variable()).collect();
        // Definitions may refer to each other. Sometimes this is an infinite recursion, which is an
        // error too.
        let forward = self.random.below(20) == 0;
        let mut text = String::from("(let");
        for (index, (name, kind)) in bound.iter().enumerate() {
            let seen = if forward {
                bound.clone()
            } else {
                bound[..index].to_vec()
            };
            let value = self.scoped(seen, |w| w.expr(*kind, depth));
            text.push_str(&format!(" {name} = {value};"));
        }
        let body = self.scoped(bound, |w| w.expr(kind, depth));
        format!("{text} in {body})")
    }

    fn call(&mut self, kind: Kind, depth: usize) -> String {
        if self.random.below(2) == 0 {
            let (name, of) = self.variable();
            let arg = self.expr(of, depth);
            let body = self.scoped(vec![(name.clone(), of)], |w| w.expr(kind, depth));
            return format!("(({name}: {body}) {arg})");
        }
        let (first, second) = (self.variable(), self.variable());
        let given = self.expr(first.1, depth);
        let default = self.scoped(vec![first.clone()], |w| w.expr(second.1, depth));
        let bound = vec![
            first.clone(),
            second.clone(),
            ("args".to_owned(), Kind::Set),
        ];
        let body = self.scoped(bound, |w| w.expr(kind, depth));
        let more = match self.random.below(4) {
            0 => format!("{} = {};", second.0, self.expr(second.1, depth)),
            _ => String::new(),
        };
        let ellipsis = if self.random.below(3) == 0 {
            ", ..."
        } else {
            ""
        };
        let functor = if self.random.below(6) == 0 {
            "{ __functor = self: "
        } else {
            "("
        };
        let end = if functor == "(" { ")" } else { "; }" };
        format!(
            "({functor}{{ {}, {} ? {default}{ellipsis} }}@args: {body}{end} {{ {} = {given}; {more} }})",
            first.0, second.0, first.0
        )
    }

    fn with(&mut self, kind: Kind, depth: usize) -> String {
        let (name, of) = self.variable();
        let value = self.expr(of, depth);
        let extra = self.expr(Kind::Set, depth);
        let body = self.scoped(vec![(name.clone(), of)], |w| w.expr(kind, depth));
        format!("(with {extra} // {{ {name} = {value}; }}; {body})")
    }

    fn select(&mut self, kind: Kind, depth: usize) -> String {
        let name = self.name();
        let value = self.expr(kind, depth);
        match self.random.below(4) {
            0 => format!(
                "({} // {{ {name} = {value}; }}).{name}",
                self.expr(Kind::Set, depth)
            ),
            1 => format!("({}.{name} or {value})", self.leaf(Kind::Set)),
            2 => format!("{{ x.${{\"{name}\"}} = {value}; }}.x.{name}"),
            _ => format!("(builtins.getAttr \"{name}\" {{ {name} = {value}; }})"),
        }
    }

    fn of(&mut self, kind: Kind, depth: usize) -> String {
        use Kind::{Bool, Drv, Function, Int, List, Set, String as Text};
        let choice = self.random.below(1000);
        let mut e = |kind| self.expr(kind, depth);
        match kind {
            Int => match choice % 12 {
                0 => format!("({} + {})", e(Int), e(Int)),
                1 => format!("({} - {})", e(Int), e(Int)),
                2 => format!("({} * {})", e(Int), e(Int)),
                3 => format!("({} / {})", e(Int), e(Int)),
                4 => format!("(builtins.length {})", e(List)),
                5 => format!("(builtins.stringLength {})", e(Text)),
                6 => format!("(builtins.compareVersions {} {})", e(Text), e(Text)),
                7 => format!("(builtins.foldl' (x: y: x) {} {})", e(Int), e(List)),
                8 => format!("(builtins.bitXor {} {})", e(Int), e(Int)),
                9 => format!("(builtins.floor {})", e(Int)),
                10 => format!("(-{})", e(Int)),
                _ => format!("(builtins.length (builtins.attrNames {}))", e(Set)),
            },
            Bool => match choice % 14 {
                0 => format!("({} == {})", e(Int), e(Int)),
                1 => format!("({} == {})", e(List), e(List)),
                2 => format!("({} == {})", e(Set), e(Set)),
                3 => format!("({} < {})", e(Int), e(Int)),
                4 => format!("({} >= {})", e(Text), e(Text)),
                5 => format!("({} && {})", e(Bool), e(Bool)),
                6 => format!("({} || {})", e(Bool), e(Bool)),
                7 => format!("({} -> {})", e(Bool), e(Bool)),
                8 => format!("(!{})", e(Bool)),
                9 => format!("({} ? a.b)", e(Set)),
                10 => format!("(builtins.elem {} {})", e(Int), e(List)),
                11 => format!("({} != {})", e(Drv), e(Drv)),
                12 => format!("(builtins.all builtins.isInt {})", e(List)),
                _ => format!("({} <= {})", e(List), e(List)),
            },
            Text => match choice % 20 {
                0 => format!("({} + {})", e(Text), e(Text)),
                1 => format!("\"<${{{}}}>\"", e(Text)),
                2 => format!("\"${{{}}}/bin\"", e(Drv)),
                3 => format!("(toString {})", e(Int)),
                4 => format!("(toString {})", e(List)),
                5 => format!(
                    "(builtins.substring {} {} {})",
                    choice % 4,
                    choice % 7,
                    e(Text)
                ),
                6 => format!(
                    "(builtins.concatStringsSep {} (map toString {}))",
                    e(Text),
                    e(List)
                ),
                7 => format!(
                    "(builtins.replaceStrings [ \"a\" {} ] [ {} \"\" ] {})",
                    e(Text),
                    e(Text),
                    e(Text)
                ),
                8 => format!("(builtins.hashString \"sha256\" {})", e(Text)),
                9 => format!("(baseNameOf {})", e(Text)),
                10 => format!("(dirOf {})", e(Text)),
                11 => format!("(builtins.toJSON {})", e(Set)),
                12 => format!("(builtins.toJSON {})", e(List)),
                13 => format!("(builtins.unsafeDiscardStringContext {})", e(Text)),
                14 => format!("(builtins.toXML {})", e(List)),
                15 => format!("(builtins.typeOf {})", e(Int)),
                16 => format!("(builtins.parseDrvName {}).name", e(Text)),
                17 => format!("\"${{{{ __toString = self: {}; }}}}\"", e(Text)),
                18 => format!("{}.outPath", e(Drv)),
                _ => format!("(builtins.toFile \"n\" {})", e(Text)),
            },
            List => match choice % 18 {
                0 => format!("[ {} {} ]", e(Int), e(Text)),
                1 => format!("[ {} ]", e(Set)),
                2 => format!("({} ++ {})", e(List), e(List)),
                3 => format!("(map {} {})", e(Function), e(List)),
                4 => format!("(builtins.filter (x: {}) {})", e(Bool), e(List)),
                5 => format!(
                    "(builtins.sort builtins.lessThan [ {} {} {} ])",
                    e(Int),
                    e(Int),
                    e(Int)
                ),
                6 => format!(
                    "(builtins.sort builtins.lessThan [ {} {} {} ])",
                    e(Text),
                    e(Text),
                    e(Text)
                ),
                7 => format!("(builtins.attrNames {})", e(Set)),
                8 => format!("(builtins.attrValues {})", e(Set)),
                9 => format!("(builtins.genList {} {})", e(Function), choice % 4),
                10 => format!("(builtins.split \"X\" {})", e(Text)),
                11 => format!("(builtins.match \"(.)(.*)\" {})", e(Text)),
                12 => format!("(builtins.concatLists [ {} {} ])", e(List), e(List)),
                13 => format!("(builtins.concatMap (x: [ x {} ]) {})", e(Int), e(List)),
                14 => format!("(builtins.catAttrs \"a\" [ {} {} ])", e(Set), e(Set)),
                15 => format!("(builtins.splitVersion {})", e(Text)),
                16 => format!("(builtins.tail {})", e(List)),
                _ => format!(
                    "(map (x: x.key) (builtins.genericClosure {{ startSet = [ {{ key = {}; }} ]; operator = x: [ {{ key = {}; }} ]; }}))",
                    e(Int),
                    e(Int)
                ),
            },
            Set => match choice % 18 {
                0 => format!(
                    "{{ a = {}; b.c = {}; b.d = {}; }}",
                    e(Int),
                    e(Text),
                    e(List)
                ),
                1 => format!("rec {{ a = {}; b = a; c.d = b; }}", e(Int)),
                2 => format!("({} // {})", e(Set), e(Set)),
                3 => format!("(builtins.mapAttrs (n: v: {}) {})", e(Text), e(Set)),
                4 => format!("(builtins.removeAttrs {} [ \"a\" {} ])", e(Set), e(Text)),
                5 => format!("(builtins.intersectAttrs {} {})", e(Set), e(Set)),
                6 => format!(
                    "(builtins.listToAttrs [ {{ name = {}; value = {}; }} {{ name = \"a\"; value = {}; }} ])",
                    e(Text),
                    e(Int),
                    e(Set)
                ),
                7 => format!(
                    "(builtins.zipAttrsWith (n: vs: vs) [ {} {} ])",
                    e(Set),
                    e(Set)
                ),
                8 => format!("(builtins.groupBy toString {})", e(List)),
                9 => format!("(builtins.partition (x: {}) {})", e(Bool), e(List)),
                10 => format!("(builtins.getContext {})", e(Text)),
                11 => format!("{{ ${{{}}} = {}; }}", e(Text), e(Int)),
                12 => format!("{{ inherit ({}) a b; c = {}; }}", e(Set), e(Int)),
                13 => format!("(builtins.tryEval {})", e(Int)),
                14 => format!("(builtins.functionArgs {})", e(Function)),
                15 => format!("(builtins.fromJSON (builtins.toJSON {}))", e(Set)),
                16 => format!("rec {{ __overrides = {}; a = {}; b = a; }}", e(Set), e(Int)),
                _ => format!("(builtins.parseDrvName {})", e(Text)),
            },
            Function => match choice % 5 {
                0 => format!("(x: {})", e(Int)),
                1 => format!("(x: y: {})", e(Text)),
                2 => format!("({{ a ? {}, b ? a }}: {})", e(Int), e(List)),
                3 => format!("(builtins.add {})", e(Int)),
                _ => format!("{{ __functor = self: x: {}; }}", e(Int)),
            },
            Drv => match choice % 8 {
                0 => format!(
                    "(derivation {{ name = \"n\"; system = \"s\"; builder = {}; }})",
                    e(Text)
                ),
                1 => format!(
                    "(derivation {{ name = \"n\"; system = \"s\"; builder = \"b\"; args = {}; x = {}; }})",
                    e(List),
                    e(Int)
                ),
                2 => format!(
                    "(derivation {{ name = \"n\"; system = \"s\"; builder = \"b\"; dep = {}; t = {}; }})",
                    e(Drv),
                    e(Text)
                ),
                3 => format!(
                    "(derivation {{ name = \"n\"; system = \"s\"; builder = \"b\"; outputs = [ \"out\" \"dev\" ]; e = {}; }}).dev",
                    e(List)
                ),
                4 => format!(
                    "(derivation {{ name = \"n\"; system = \"s\"; builder = \"b\"; __structuredAttrs = true; s = {}; l = {}; }})",
                    e(Set),
                    e(List)
                ),
                5 => format!(
                    "(derivation {{ name = \"n\"; system = \"s\"; builder = \"b\"; outputHash = builtins.hashString \"sha256\" {}; outputHashAlgo = \"sha256\"; }})",
                    e(Text)
                ),
                6 => format!(
                    "(derivation {{ name = \"n\"; system = \"s\"; builder = \"b\"; __ignoreNulls = true; n = null; b = {}; }})",
                    e(Bool)
                ),
                _ => format!(
                    "(derivation ({} // {{ name = \"n\"; system = \"s\"; builder = \"b\"; }}))",
                    e(Set)
                ),
            },
        }
    }
}
