//! Expressions that are nested deeply. C++ Nix 2.34 has values for these with 50,000 levels.

use tvix_eval::{Limits, NixEvaluator};

/// A text that begins, repeats and ends.
fn nested(levels: usize, (open, inner, close): (&str, &str, &str)) -> String {
    open.repeat(levels) + inner + &close.repeat(levels)
}

#[test]
fn chains_of_operators_have_values() {
    let chain = |one: &str, operator: &str, many: usize| vec![one; many].join(operator);
    for (text, value) in [
        (chain("1", "+", 200_000), 200_000),
        (
            format!("builtins.stringLength ({})", chain("\"a\"", "+", 20_000)),
            20_000,
        ),
        (
            format!("if {} then 1 else 0", chain("true", "&&", 200_000)),
            1,
        ),
        (
            format!(
                "if {} && false && x then 1 else 0",
                chain("true", "&&", 100)
            )
            .replace('x', "throw 1"),
            0,
        ),
        (
            format!("if {} then 1 else 0", chain("false", "||", 200_000)),
            0,
        ),
        (
            format!(
                "if {} || true || throw 1 then 1 else 0",
                chain("false", "||", 100)
            ),
            1,
        ),
        (chain("1", "-", 9_000), -8_998),
    ] {
        let found = NixEvaluator::default().eval_to::<i64>(&text);
        assert_eq!(found.unwrap(), value, "{}", &text[..60]);
    }
}

#[test]
fn nested_expressions_have_values() {
    let many = 50_000;
    for (before, parts, after) in [
        ("", ("(", "1", ")"), ""),
        ("", ("(", "1", " + 0)"), ""),
        ("builtins.length (", ("[", "1", "]"), ")"),
        (
            "builtins.length (builtins.attrNames (",
            ("{ a = ", "1", "; }"),
            "))",
        ),
        (
            "builtins.length (builtins.attrNames {",
            ("a.", "a", ""),
            " = 1; })",
        ),
        ("", ("let a = 1; in ", "a", ""), ""),
        ("", ("if false then 2 else ", "1", ""), ""),
        ("", ("if true then ", "1", " else 2"), ""),
        ("", ("with { a = 1; }; ", "a", ""), ""),
        ("", ("assert true; ", "1", ""), ""),
        (
            "if builtins.isFunction (",
            ("a: ", "1", ""),
            ") then 1 else 2",
        ),
        (
            "if builtins.isFunction (",
            ("{ a }: ", "1", ""),
            ") then 1 else 2",
        ),
        ("let x = { a = x; b = 1; }; in x", (".a", ".b", ""), ""),
        (
            "if builtins.isList [ ",
            ("\"${", "\"\"", "}\""),
            " ] then 1 else 2",
        ),
        ("let x = ", ("- ", "1", ""), "; in 1"),
        ("let x = ", ("!", "true", ""), "; in 1"),
        ("let x = ", ("[ ] ++ ", "[ ]", ""), "; in 1"),
        ("let x = ", ("{ } // ", "{ }", ""), "; in 1"),
        ("let x = ", ("1 + (", "1", ")"), "; in 1"),
        ("let f = f; x = ", ("f (", "1", ")"), "; in 1"),
        ("let x = ", ("{ } . a or (", "1", ")"), "; in 1"),
        ("let x = ", ("{ }.a or ", "1", ""), "; in 1"),
        (
            "let x = ",
            ("if ", "true", " then true else false"),
            "; in 1",
        ),
    ] {
        let text = format!("{before}{}{after}", nested(many, parts));
        let found = NixEvaluator::default().eval_to::<i64>(&text);
        assert_eq!(
            found.map_err(|error| error.to_string()),
            Ok(1),
            "{before}{}",
            parts.0
        );
    }
}

/// Evaluation that is nested too deeply is an error, and no crash.
#[test]
fn too_deep_evaluation_is_an_error() {
    let many = 200_000;
    for parts in [
        ("1 + (", "1", ")"),
        ("-(", "1", ")"),
        ("if (", "true", ") then true else true"),
        ("\"${", "\"\"", "}\""),
        ("[ ] ++ (", "[ ]", ")"),
        ("{ } // (", "{ }", ")"),
        ("true && (", "true", ")"),
        ("!(", "true", ")"),
    ] {
        let text = format!("builtins.seq ({}) 1", nested(many, parts));
        match NixEvaluator::default().eval_to::<i64>(&text) {
            Ok(value) => assert_eq!(value, 1),
            Err(error) => assert!(
                error.to_string().contains("overflow"),
                "{}: {error}",
                parts.0
            ),
        }
    }
}

/// The text of an error does not depend on the calls that are left when it is made.
#[test]
fn errors_show_values_at_any_depth() {
    let mut shown = 0;
    for calls in 960..1000 {
        let text = format!(
            "let v = {{ a.b.c.d = [ 1 [ 2 ] ]; }}; f = n: if n == 0 then \"${{v}}\" else f (n - 1); \
             in builtins.deepSeq v (builtins.stringLength (f {calls}))"
        );
        let limits = Limits::default().with_depth(1000);
        let evaluator = NixEvaluator::default().with_limits(limits);
        let error = evaluator.eval_to::<i64>(&text).unwrap_err().to_string();
        if error.contains("max-call-depth") {
            continue;
        }
        let value = "{ a = { b = { c = { d = [ 1 [ 2 ] ]; }; }; }; }";
        assert!(error.contains(value), "{calls}: {error}");
        shown += 1;
    }
    assert!((1..40).contains(&shown), "{shown}");
}
