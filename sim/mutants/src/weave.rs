//! Puts all mutants of a file into its text, each behind a switch that is read at run time.
//!
//! Text is only ever inserted. `a < b` becomes `(if crate::mutant(7) { a == b } else { a < b })`: the alternatives are the
//! text as it was, the last branch holds the mutants of the parts.

use std::{collections::BTreeSet, ops::Range};

use proc_macro2::{LineColumn, Span};
use syn::{
    Arm, BinOp, Block, Expr, ExprBinary, ExprUnary, ImplItemFn, ItemFn, ReturnType, Signature, TraitItemFn, Type,
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
}

/// Returns the text with the mutants in it, and their places in it. Mutants without one cannot be woven.
pub fn weave(source: &str, mutants: &[Mutant]) -> Result<(String, Vec<Place>), syn::Error> {
    let tree = syn::parse_file(source)?;
    let lines = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut weaver = Weaver { source, lines, mutants, edits: Vec::new() };
    weaver.visit_file(&tree);
    Ok(insert(source, &weaver.edits))
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
            let mut prefix = vec![(" let mutant: Option<Box<dyn Iterator<Item = _>>> = ".to_owned(), None)];
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
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.body(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.body(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.body(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_expr_binary(&mut self, binary: &'ast ExprBinary) {
        let found = self.at("BinaryOperator", binary.op.span().start(), Some(binary.op.span().end()));
        // A chain with `let` has no other operator than `&&`: such mutants do not compile.
        if !found.is_empty() && !has_let(&binary.left) && !has_let(&binary.right) {
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
/// last resort those whose text any of its places touches, such as of an iterator of other items than the signature's.
pub fn blamed(
    places: &[Place],
    primary: &[Range<usize>],
    is_last_resort: bool,
    all: &[Range<usize>],
) -> BTreeSet<usize> {
    let overlaps = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    let contains = |a: &Range<usize>, b: &Range<usize>| a.start <= b.start && b.end <= a.end;
    if is_last_resort {
        let touched = places.iter().filter(|place| all.iter().any(|span| overlaps(&place.text, span)));
        return touched.map(|place| place.number).collect();
    }
    let meant = |place: &&Place| {
        let is_whole = |span: &Range<usize>| contains(span, &place.around) && place.around != place.text;
        primary.iter().any(|span| overlaps(&place.text, span) && !is_whole(span))
    };
    let meant: BTreeSet<usize> = places.iter().filter(meant).map(|place| place.number).collect();
    if !meant.is_empty() {
        return meant;
    }
    let around = places.iter().filter(|place| primary.iter().any(|span| contains(&place.around, span)));
    let Some(nearest) = around.min_by_key(|place| place.around.len()) else { return BTreeSet::new() };
    places.iter().filter(|place| place.around == nearest.around).map(|place| place.number).collect()
}
