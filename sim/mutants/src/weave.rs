//! Puts all mutants of a file into its text, each behind a switch that is read at run time.
//!
//! Text is only ever inserted. `a < b` becomes `(if crate::mutant(7) { a == b } else { a < b })`: the alternatives are the
//! text as it was, the last branch holds the mutants of the parts.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use proc_macro2::{LineColumn, Span};
use syn::{
    Arm, BinOp, Block, Expr, ExprBinary, ExprMatch, ExprRepeat, ExprStruct, ExprUnary, ImplItemConst, ImplItemFn,
    ItemConst, ItemFn, ReturnType, Signature, TraitItemFn, Type,
    spanned::Spanned as _,
    visit::{self, Visit},
};

/// As `cargo mutants --list --json` tells it. Lines and columns count from 1.
#[derive(Clone, Debug)]
pub struct Mutant {
    pub number: usize,
    pub file: String,
    pub name: String,
    pub genre: String,
    pub start: (usize, usize),
    pub end: (usize, usize),
    pub replacement: String,
}

/// Where a mutant's text was put, and what it was put around.
#[derive(Clone, Debug)]
pub struct Place {
    pub number: usize,
    pub text: Range<usize>,
    pub around: Range<usize>,
}

struct Edit {
    start: usize,
    end: usize,
    /// Parts of the inserted text, with the mutant that each is there for.
    prefix: Vec<(String, Option<usize>)>,
    suffix: &'static str,
}

struct Weaver<'a> {
    source: &'a str,
    lines: Vec<usize>,
    mutants: &'a [Mutant],
    edits: Vec<Edit>,
    impossible: Vec<usize>,
}

/// A file with mutants in it. Those without a place stand where no switch can be read: in constants, for example.
#[derive(Debug)]
pub struct Woven {
    pub text: String,
    pub places: Vec<Place>,
    /// Mutants that could not compile.
    pub impossible: Vec<usize>,
}

pub fn weave(source: &str, mutants: &[Mutant]) -> Result<Woven, syn::Error> {
    let tree = syn::parse_file(source)?;
    let lines = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut weaver = Weaver { source, lines, mutants, edits: Vec::new(), impossible: Vec::new() };
    weaver.visit_file(&tree);
    let (text, places) = insert(source, &weaver.edits);
    Ok(Woven { text, places, impossible: weaver.impossible })
}

fn insert(source: &str, edits: &[Edit]) -> (String, Vec<Place>) {
    // At one place, the ends of inner parts come first, then the beginnings of outer parts.
    let begins = edits.iter().enumerate().map(|(index, edit)| ((edit.start, 1, index), edit));
    let ends = edits.iter().enumerate().filter(|(_, edit)| !edit.suffix.is_empty());
    let ends = ends.map(|(index, edit)| ((edit.end, 0, usize::MAX - index), edit));
    let mut inserts: Vec<_> = begins.chain(ends).collect();
    inserts.sort_by_key(|(order, _)| *order);
    let (mut text, mut places, mut done) = (String::new(), Vec::new(), 0);
    let mut open = Vec::new();
    for ((at, begins, _), edit) in inserts {
        text.push_str(&source[done..at]);
        done = at;
        if begins == 1 {
            let outer = text.len();
            let first = places.len();
            for (part, number) in &edit.prefix {
                let start = text.len();
                text.push_str(part);
                let range = start..text.len();
                places.extend(number.map(|number| Place { number, text: range.clone(), around: range }));
            }
            if !edit.suffix.is_empty() {
                open.push((outer, first..places.len()));
            }
        } else if let Some((outer, which)) = open.pop() {
            text.push_str(edit.suffix);
            places[which].iter_mut().for_each(|place| place.around = outer..text.len());
        }
    }
    text.push_str(&source[done..]);
    (text, places)
}

impl<'a> Weaver<'a> {
    fn byte(&self, at: LineColumn) -> usize {
        let line = self.lines[at.line - 1];
        line + self.source[line..].chars().take(at.column).map(char::len_utf8).sum::<usize>()
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.byte(span.start())..self.byte(span.end())
    }

    fn text(&self, span: Span) -> &'a str {
        &self.source[self.range(span)]
    }

    /// Mutants of a kind that begin there.
    fn at(&self, genre: &str, start: LineColumn, end: Option<LineColumn>) -> Vec<(usize, &'a str)> {
        let place = |at: LineColumn| (at.line, at.column + 1);
        let is_there = |mutant: &&Mutant| {
            mutant.genre == genre && mutant.start == place(start) && end.is_none_or(|end| mutant.end == place(end))
        };
        let found = self.mutants.iter().filter(is_there);
        found.map(|mutant| (mutant.number, mutant.replacement.as_str())).collect()
    }

    fn body(&mut self, signature: &Signature, block: &Block) {
        let Some(first) = block.stmts.first() else { return };
        let found = self.at("FnValue", first.span().start(), None);
        if found.is_empty() {
            return;
        }
        let start = self.byte(block.brace_token.span.open().end());
        let is_iterator = matches!(&signature.output, ReturnType::Type(_, of) if matches!(**of, Type::ImplTrait(_)));
        if is_iterator {
            let mut prefix = vec![(" let mutant: Option<Box<dyn Iterator<Item = _> + '_>> = ".to_owned(), None)];
            for (number, value) in found {
                let part = format!("if crate::mutant({number}) {{ Some(Box::new({value})) }} else ");
                prefix.push((part, Some(number)));
            }
            prefix.push(("{ None }; crate::MutantIterator(mutant, {".to_owned(), None));
            let end = self.byte(block.brace_token.span.close().start());
            self.edits.push(Edit { start, end, prefix, suffix: "}) " });
        } else {
            let text = |(number, value)| (format!(" if crate::mutant({number}) {{ return ({value}); }}"), Some(number));
            let prefix = found.into_iter().map(text).collect();
            self.edits.push(Edit { start, end: start, prefix, suffix: "" });
        }
    }
}

impl<'ast> Visit<'ast> for Weaver<'_> {
    fn visit_item_const(&mut self, _: &'ast ItemConst) {}

    fn visit_expr_repeat(&mut self, array: &'ast ExprRepeat) {
        // Its length is a constant.
        self.visit_expr(&array.expr);
    }

    fn visit_impl_item_const(&mut self, _: &'ast ImplItemConst) {}

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if function.sig.constness.is_none() {
            self.body(&function.sig, &function.block);
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if function.sig.constness.is_none() {
            self.body(&function.sig, &function.block);
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.body(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_expr_binary(&mut self, binary: &'ast ExprBinary) {
        let found = self.at("BinaryOperator", binary.op.span().start(), Some(binary.op.span().end()));
        // A chain with `let` has no other operator than `&&`.
        if has_let(&binary.left) || has_let(&binary.right) {
            self.impossible.extend(found.iter().map(|(number, _)| number));
        } else if !found.is_empty() {
            let (left, right) = (self.text(binary.left.span()), self.text(binary.right.span()));
            let mut prefix = vec![("(".to_owned(), None)];
            for (number, operator) in found {
                let part = format!("if crate::mutant({number}) {{ {left} {operator} {right} }} else ");
                prefix.push((part, Some(number)));
            }
            prefix.push(("{ ".to_owned(), None));
            let Range { start, end } = self.range(binary.span());
            self.edits.push(Edit { start, end, prefix, suffix: " })" });
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'ast ExprUnary) {
        let found = self.at("UnaryOperator", unary.op.span().start(), Some(unary.op.span().end()));
        if let Some((number, _)) = found.first() {
            let part = format!("(if crate::mutant({number}) {{ {} }} else {{ ", self.text(unary.expr.span()));
            let Range { start, end } = self.range(unary.span());
            self.edits.push(Edit { start, end, prefix: vec![(part, Some(*number))], suffix: " })" });
        }
        visit::visit_expr_unary(self, unary);
    }

    fn visit_expr_struct(&mut self, whole: &'ast ExprStruct) {
        let Range { start, end } = self.range(whole.span());
        let mut prefix = vec![("(".to_owned(), None)];
        for pair in whole.fields.pairs() {
            let field = self.range(pair.span());
            for (number, _) in self.at("StructField", pair.value().span().start(), None) {
                let without = format!("{}{}", &self.source[start..field.start], &self.source[field.end..end]);
                prefix.push((format!("if crate::mutant({number}) {{ {without} }} else "), Some(number)));
            }
        }
        if prefix.len() > 1 {
            prefix.push(("{ ".to_owned(), None));
            self.edits.push(Edit { start, end, prefix, suffix: " })" });
        }
        visit::visit_expr_struct(self, whole);
    }

    fn visit_expr_match(&mut self, expression: &'ast ExprMatch) {
        // Without an arm the match may not be exhaustive: the compiler says so of the whole.
        let arms = expression.arms.iter().flat_map(|arm| self.at("MatchArm", arm.span().start(), None));
        let prefix: Vec<_> = arms.map(|(number, _)| (String::new(), Some(number))).collect();
        if !prefix.is_empty() {
            let Range { start, end } = self.range(expression.span());
            self.edits.push(Edit { start, end, prefix, suffix: " " });
        }
        visit::visit_expr_match(self, expression);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        let deleted = self.at("MatchArm", arm.span().start(), None);
        let deleted = deleted.into_iter().map(|(number, _)| (format!("!crate::mutant({number})"), Some(number)));
        if let Some((_, guard)) = &arm.guard {
            let mut prefix: Vec<_> = deleted.map(|(text, number)| (format!("{text} && "), number)).collect();
            let mut closing = "";
            for (number, value) in self.at("MatchArmGuard", guard.span().start(), Some(guard.span().end())) {
                let text = if value == "true" { "(crate::mutant" } else { "(!crate::mutant" };
                let operator = if value == "true" { "||" } else { "&&" };
                prefix.push((format!("{text}({number}) {operator} "), Some(number)));
                closing = if closing.is_empty() { "))" } else { ")))" };
            }
            if !prefix.is_empty() {
                prefix.push(("(".to_owned(), None));
                let Range { start, end } = self.range(guard.span());
                let suffix = if closing.is_empty() { ")" } else { closing };
                self.edits.push(Edit { start, end, prefix, suffix });
            }
        } else {
            let prefix: Vec<_> = deleted.map(|(text, number)| (format!(" if {text}"), number)).collect();
            if !prefix.is_empty() {
                let end = self.range(arm.pat.span()).end;
                self.edits.push(Edit { start: end, end, prefix, suffix: "" });
            }
        }
        visit::visit_arm(self, arm);
    }
}

fn has_let(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

/// Mutants that a compiler's message with these places is about: those whose text is meant, otherwise those around; as a
/// last resort those that any of its places touches, such as of an iterator of other items than the signature's.
pub fn blamed(
    places: &[Place],
    primary: &[Range<usize>],
    is_last_resort: bool,
    all: &[Range<usize>],
) -> BTreeSet<usize> {
    let overlaps = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    let contains = |a: &Range<usize>, b: &Range<usize>| a.start <= b.start && b.end <= a.end;
    if is_last_resort {
        // Of those around the same code only the last one: without it the others may compile.
        let touched = places.iter().filter(|place| all.iter().any(|span| overlaps(&place.around, span)));
        let last: BTreeMap<usize, usize> = touched.map(|place| (place.around.start, place.number)).collect();
        return last.into_values().collect();
    }
    let meant = |place: &&Place| {
        let is_whole = |span: &Range<usize>| contains(span, &place.around) && place.around != place.text;
        !place.text.is_empty() && primary.iter().any(|span| overlaps(&place.text, span) && !is_whole(span))
    };
    let meant: BTreeSet<usize> = places.iter().filter(meant).map(|place| place.number).collect();
    if !meant.is_empty() {
        return meant;
    }
    let around = places.iter().filter(|place| primary.iter().any(|span| contains(&place.around, span)));
    let Some(nearest) = around.min_by_key(|place| place.around.len()) else { return BTreeSet::new() };
    let same = places.iter().filter(|place| place.around == nearest.around).map(|place| place.number);
    // Of the arms of a match only the last one: without the others it may still be exhaustive.
    if nearest.text.is_empty() { same.max().into_iter().collect() } else { same.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(number: usize, genre: &str, start: usize, end: usize, replacement: &str) -> Mutant {
        let (start, end) = ((1, start), (1, end));
        let (file, name, genre) = (String::new(), String::new(), genre.to_owned());
        Mutant { number, file, name, genre, start, end, replacement: replacement.to_owned() }
    }

    #[test]
    fn every_mutant_has_a_branch_of_its_own_and_the_last_one_is_the_code_as_it_was() {
        let source = "fn f(a: u8) -> bool { !a < 1 }";
        let mutants = [
            mutant(0, "FnValue", 23, 29, "true"),
            mutant(1, "BinaryOperator", 26, 27, "=="),
            mutant(2, "BinaryOperator", 26, 27, ">"),
            mutant(3, "UnaryOperator", 23, 24, ""),
            mutant(4, "UnaryOperator", 28, 29, ""),
        ];
        let Woven { text, places, .. } = weave(source, &mutants).expect("code");
        let expected = "fn f(a: u8) -> bool { if crate::mutant(0) { return (true); } \
            (if crate::mutant(1) { !a == 1 } else if crate::mutant(2) { !a > 1 } else { \
            (if crate::mutant(3) { a } else { !a }) < 1 }) }";
        assert_eq!(text, expected);
        let placed: BTreeSet<usize> = places.iter().map(|place| place.number).collect();
        assert_eq!(placed, BTreeSet::from([0, 1, 2, 3]), "where there is no operator, nothing is put");
        let second = places.iter().find(|place| place.number == 2).expect("placed");
        assert_eq!(&text[second.text.clone()], "if crate::mutant(2) { !a > 1 } else ");
        assert_eq!(blamed(&places, std::slice::from_ref(&second.text), false, &[]), BTreeSet::from([2]));
    }

    #[test]
    fn arms_and_guards_are_switched_off_by_guards() {
        let source = "fn f(a: u8) -> u8 { match a { 1 => 2, b if b > 3 => 4, _ => 5 } }";
        let mutants = [
            mutant(0, "MatchArm", 31, 37, ""),
            mutant(1, "MatchArmGuard", 44, 49, "true"),
            mutant(2, "MatchArmGuard", 44, 49, "false"),
        ];
        let text = weave(source, &mutants).expect("code").text;
        assert!(text.contains("1 if !crate::mutant(0) => 2"), "{text}");
        assert!(text.contains("b if (crate::mutant(1) || (!crate::mutant(2) && (b > 3))) => 4"), "{text}");
    }

    #[test]
    fn a_field_is_left_out_and_constants_are_left_alone() {
        let source = "const fn f() -> A { A { b: 1, ..C } } fn g() -> A { A { b: 1, ..C } }";
        let mutants = [mutant(0, "StructField", 25, 29, ""), mutant(1, "StructField", 57, 61, "")];
        let Woven { text, places, .. } = weave(source, &mutants).expect("code");
        assert!(
            text.contains("fn g() -> A { (if crate::mutant(1) { A {  ..C } } else { A { b: 1, ..C } }) }"),
            "{text}"
        );
        assert_eq!(places.iter().map(|place| place.number).collect::<Vec<_>>(), [1]);
    }
}
