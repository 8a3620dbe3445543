//! The tree between parser and evaluation: data only. PURE.
//!
//! The parser bounds its depth, since evaluating and dropping it recurse.

use std::collections::BTreeMap;

/// A parsed template and the templates it defines.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) root: Vec<Node>,
    pub(super) defined: BTreeMap<String, Vec<Node>>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text {
        text: String,
        offset: usize,
    },
    Action(Pipe),
    If {
        pipe: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        pipe: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        pipe: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Template {
        name: String,
        pipe: Option<Pipe>,
        offset: usize,
    },
    Break(usize),
    Continue(usize),
}

impl Node {
    /// Where it starts in the text.
    pub(super) fn offset(&self) -> usize {
        match self {
            Self::Action(pipe)
            | Self::If { pipe, .. }
            | Self::With { pipe, .. }
            | Self::Range { pipe, .. } => pipe.offset,
            Self::Text { offset, .. }
            | Self::Template { offset, .. }
            | Self::Break(offset)
            | Self::Continue(offset) => *offset,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pipe {
    /// Variables set by the pipe.
    pub(super) variables: Vec<String>,
    /// `:=` rather than `=`.
    pub(super) declares: bool,
    pub(super) commands: Vec<Command>,
    pub(super) offset: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) words: Vec<Expr>,
    pub(super) offset: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Expr {
    pub(super) term: Term,
    /// `.a.b` after the term.
    pub(super) fields: Vec<String>,
    pub(super) offset: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Variable(String),
    Function(String),
    Paren(Box<Pipe>),
}
