//! Random programs that import from derivations at random places.

pub use tvix_test_support::random::Random;

/// Definitions that every program and every imported file starts with.
const PRELUDE: &str = "let
  mk = name: secs: fail: text: derivation { inherit name secs fail text; system = \"x\"; builder = \"b\"; };
  imp = name: secs: fail: text: import (mk name secs fail text);
in ";

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Int,
    Text,
    /// A list of integers.
    Ints,
    /// A list of texts.
    Texts,
    /// `{ a: integer, b: text, c: list of integers }`
    Set,
}

const TYPES: [Type; 5] = [Type::Int, Type::Text, Type::Ints, Type::Texts, Type::Set];

pub struct Program {
    random: Random,
    scope: Vec<(String, Type)>,
    names: usize,
    /// Number of expressions that may still be made.
    left: usize,
}

impl Program {
    /// The program of a seed.
    pub fn text(seed: u64) -> String {
        let mut program = Self {
            random: Random::new(seed),
            scope: Vec::new(),
            names: 0,
            left: 150,
        };
        let body = match program.random.below(4) {
            0 => program.expr(Type::Text, 6),
            1 => program.expr(Type::Texts, 6),
            2 => {
                let members: Vec<_> = (0..2 + program.random.below(4))
                    .map(|index| format!("m{index} = {};", program.any(5)))
                    .collect();
                format!("{{ {} }}", members.join(" "))
            }
            _ => {
                let items: Vec<_> = (0..2 + program.random.below(4))
                    .map(|_| format!("({})", program.any(5)))
                    .collect();
                format!("[ {} ]", items.join(" "))
            }
        };
        format!("{PRELUDE}{body}")
    }

    fn any(&mut self, depth: usize) -> String {
        let kind = TYPES[self.random.below(TYPES.len())];
        self.expr(kind, depth)
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    /// A random expression of a type, in parentheses.
    fn expr(&mut self, kind: Type, depth: usize) -> String {
        let in_scope: Vec<_> = self
            .scope
            .iter()
            .filter(|(_, of)| *of == kind)
            .map(|(name, _)| name.clone())
            .collect();
        if !in_scope.is_empty() && self.random.one_in(3) {
            return in_scope[self.random.below(in_scope.len())].clone();
        }
        if depth == 0 || self.left == 0 {
            return self.literal(kind);
        }
        self.left -= 1;
        let depth = depth - 1;
        let text = match self.random.below(12) {
            0..=2 => self.import(kind, depth),
            3 => self.wrapped(kind, depth),
            4 => self.scoped(kind, depth),
            _ => self.of_type(kind, depth),
        };
        format!("({text})")
    }

    fn literal(&mut self, kind: Type) -> String {
        let number = self.random.below(10);
        match kind {
            Type::Int => number.to_string(),
            Type::Text => format!("\"s{number}\""),
            Type::Ints => format!("[ {number} {} ]", self.random.below(10)),
            Type::Texts => format!("[ \"s{number}\" \"t\" ]"),
            Type::Set => format!("{{ a = {number}; b = \"b{number}\"; c = [ {number} ]; }}"),
        }
    }

    /// An import of a file with an expression of a type, or of a computed value.
    fn import(&mut self, kind: Type, depth: usize) -> String {
        let name = self.name();
        let secs = 1 + self.random.below(9);
        let fail = if self.random.one_in(25) {
            "\"1\""
        } else {
            "\"\""
        };
        let text = if kind == Type::Int && self.random.one_in(2) {
            // The build depends on a value.
            format!("(toString {})", self.expr(Type::Int, depth))
        } else {
            let scope = std::mem::take(&mut self.scope);
            let body = self.expr(kind, depth.min(3));
            self.scope = scope;
            let body = match self.random.below(20) {
                0 => format!("throw \"in {name}\""),
                1 => format!("builtins.trace \"loaded {name}\" {body}"),
                _ => body,
            };
            quoted(&format!("{PRELUDE}{body}"))
        };
        if kind == Type::Text && self.random.one_in(3) {
            return format!("builtins.readFile (mk \"{name}\" \"{secs}\" {fail} {text})");
        }
        format!("imp \"{name}\" \"{secs}\" {fail} {text}")
    }

    /// Something around an expression: messages, errors, conditions.
    fn wrapped(&mut self, kind: Type, depth: usize) -> String {
        let inner = self.expr(kind, depth);
        let name = self.name();
        match self.random.below(16) {
            0 | 1 => format!("builtins.trace \"trace {name}\" {inner}"),
            2 => format!("builtins.trace {} {inner}", self.any(depth)),
            3 => format!("builtins.warn \"{name}\" {inner}"),
            4 | 5 => format!("builtins.seq {} {inner}", self.any(depth)),
            6 | 7 => format!("builtins.deepSeq {} {inner}", self.any(depth)),
            8 => format!("throw \"thrown {name}\""),
            9..=11 => {
                let tried = self.any(depth);
                let other = self.expr(kind, depth);
                format!(
                    "if (builtins.tryEval (builtins.deepSeq {tried} 1)).success then {inner} else {other}"
                )
            }
            12 => format!("assert {} != 3; {inner}", self.expr(Type::Int, depth)),
            13 => {
                let wrong = self.expr(Type::Set, depth);
                match kind {
                    Type::Int => format!("1 + {wrong}"),
                    Type::Text => format!("\"${{{wrong}}}\""),
                    _ => format!("builtins.length {wrong}"),
                }
            }
            14 => format!("builtins.addErrorContext \"context {name}\" {inner}"),
            _ => {
                let condition = self.expr(Type::Int, depth);
                format!(
                    "if {condition} < 5 then {inner} else {}",
                    self.expr(kind, depth)
                )
            }
        }
    }

    /// Definitions that may refer to each other, and a use of them.
    fn scoped(&mut self, kind: Type, depth: usize) -> String {
        let count = 1 + self.random.below(3);
        let defined: Vec<_> = (0..count)
            .map(|_| (self.name(), TYPES[self.random.below(TYPES.len())]))
            .collect();
        let before = self.scope.len();
        self.scope.extend(defined.iter().cloned());
        let mut text = String::from("let ");
        for (index, (name, of)) in defined.iter().enumerate() {
            // Mostly without the later ones, so that few programs recurse without end.
            let hidden = match self.random.one_in(8) {
                true => Vec::new(),
                false => self.scope.split_off(before + index),
            };
            text.push_str(&format!("{name} = {}; ", self.expr(*of, depth)));
            self.scope.extend(hidden);
        }
        text.push_str(&format!("in {}", self.expr(kind, depth)));
        self.scope.truncate(before);
        text
    }

    fn function(&mut self, of: Type, kind: Type, depth: usize) -> String {
        let name = self.name();
        self.scope.push((name.clone(), of));
        let body = self.expr(kind, depth);
        self.scope.pop();
        format!("({name}: {body})")
    }

    fn of_type(&mut self, kind: Type, depth: usize) -> String {
        use Type::{Int, Ints, Set, Text, Texts};
        let choice = self.random.below(10);
        match kind {
            Int => {
                let (a, b) = (self.expr(Int, depth), self.expr(Int, depth));
                match choice {
                    0 | 1 => format!("{a} + {b}"),
                    2 => format!("{a} - {b}"),
                    3 => format!("builtins.mul {a} {b}"),
                    4 => format!("builtins.length {}", self.expr(Ints, depth)),
                    5 => format!("builtins.stringLength {}", self.expr(Text, depth)),
                    6 => format!(
                        "builtins.foldl' (a: b: a + b) {a} {}",
                        self.expr(Ints, depth)
                    ),
                    7 => format!("{}.a", self.expr(Set, depth)),
                    8 => format!("{} {a}", self.function(Int, Int, depth)),
                    _ => format!("if {a} == {b} then {a} else {b}"),
                }
            }
            Text => match choice {
                0..=2 => {
                    let parts: Vec<_> = (0..2 + self.random.below(3))
                        .map(|_| match self.random.one_in(2) {
                            true => format!("${{{}}}", self.expr(Text, depth)),
                            false => format!("${{toString {}}}", self.expr(Ints, depth)),
                        })
                        .collect();
                    format!("\"{}\"", parts.join("-"))
                }
                3 => format!(
                    "builtins.concatStringsSep \",\" {}",
                    self.expr(Texts, depth)
                ),
                4 => format!("builtins.toJSON {}", self.any(depth)),
                5 => format!("{} + {}", self.expr(Text, depth), self.expr(Text, depth)),
                6 => format!("toString {}", self.expr(Texts, depth)),
                7 | 8 => {
                    let name = self.name();
                    let (p, q, r) = (self.any(depth), self.any(depth), self.expr(Texts, depth));
                    let structured = match self.random.one_in(4) {
                        true => "__structuredAttrs = true;",
                        false => "",
                    };
                    let set = if structured.is_empty() { "c" } else { "" };
                    let (p, q) = match set {
                        "" => (p, q),
                        _ => (
                            format!("(builtins.toJSON {p})"),
                            format!("(builtins.toJSON {q})"),
                        ),
                    };
                    format!(
                        "(derivation {{ name = \"{name}\"; system = \"x\"; builder = \"b\"; {structured} p = {p}; q = {q}; args = {r}; }}).drvPath"
                    )
                }
                _ => format!("builtins.toXML {}", self.any(depth)),
            },
            Ints => match choice {
                0..=2 => {
                    let items: Vec<_> = (0..2 + self.random.below(3))
                        .map(|_| self.expr(Int, depth))
                        .collect();
                    format!("[ {} ]", items.join(" "))
                }
                3 => format!(
                    "map {} {}",
                    self.function(Int, Int, depth),
                    self.expr(Ints, depth)
                ),
                4 => format!("{} ++ {}", self.expr(Ints, depth), self.expr(Ints, depth)),
                5 => format!(
                    "builtins.filter (x: x > {}) {}",
                    self.expr(Int, depth),
                    self.expr(Ints, depth)
                ),
                6 => format!(
                    "builtins.concatMap {} {}",
                    self.function(Int, Ints, depth),
                    self.expr(Ints, depth)
                ),
                7 => format!("builtins.sort builtins.lessThan {}", self.expr(Ints, depth)),
                8 => format!(
                    "builtins.concatLists [ {} {} ]",
                    self.expr(Ints, depth),
                    self.expr(Ints, depth)
                ),
                _ => format!("builtins.genList {} 3", self.function(Int, Int, depth)),
            },
            Texts => match choice {
                0..=4 => {
                    let items: Vec<_> = (0..2 + self.random.below(3))
                        .map(|_| self.expr(Text, depth))
                        .collect();
                    format!("[ {} ]", items.join(" "))
                }
                5 | 6 => format!(
                    "map {} {}",
                    self.function(Int, Text, depth),
                    self.expr(Ints, depth)
                ),
                7 => format!("{} ++ {}", self.expr(Texts, depth), self.expr(Texts, depth)),
                8 => format!(
                    "builtins.attrNames (builtins.groupBy {} {})",
                    self.function(Int, Text, depth),
                    self.expr(Ints, depth)
                ),
                _ => format!("map builtins.toJSON {}", self.expr(Ints, depth)),
            },
            Set => match choice {
                0..=3 => format!(
                    "{{ a = {}; b = {}; c = {}; }}",
                    self.expr(Int, depth),
                    self.expr(Text, depth),
                    self.expr(Ints, depth)
                ),
                4..=6 => format!(
                    "{} // {{ b = {}; }}",
                    self.expr(Set, depth),
                    self.expr(Text, depth)
                ),
                7 => format!("{} // {}", self.expr(Set, depth), self.expr(Set, depth)),
                _ => format!(
                    "builtins.listToAttrs [ {{ name = \"a\"; value = {}; }} {{ name = \"b\"; value = {}; }} {{ name = \"c\"; value = {}; }} ]",
                    self.expr(Int, depth),
                    self.expr(Text, depth),
                    self.expr(Ints, depth)
                ),
            },
        }
    }
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace("${", "\\${"))
}
