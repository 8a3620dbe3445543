//! Tokens -> tree, with every function and variable known. PURE.

use std::collections::BTreeMap;

use super::error::Fault;
use super::functions::Functions;
use super::lex::{Kind, Token};
use super::tree::{Command, Expr, Node, Pipe, Term, Tree};

/// How deep blocks, `else if`s and parentheses may lie in each other. The parser, the
/// evaluation and the drop of the tree all recurse this deep.
const MAX_DEPTH: usize = 64;
/// Variables in scope at once: each use of one looks through them.
const MAX_VARIABLES: usize = 256;

/// Builds the tree.
pub(super) fn parse(tokens: Vec<Token>, functions: &Functions) -> Result<Tree, Fault> {
    let end = tokens.last().map_or(0, |token| token.offset);
    let mut parser = Parser {
        tokens,
        at: 0,
        end,
        functions,
        variables: vec![String::new()],
        defined: BTreeMap::new(),
        loops: 0,
        depth: 0,
    };
    let (root, stop) = parser.nodes()?;
    if let Some((word, offset)) = stop {
        return Err(Fault::new(offset, format!("unexpected {{{{{word}}}}}")));
    }
    Ok(Tree {
        root,
        defined: parser.defined,
    })
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    end: usize,
    functions: &'a Functions,
    /// Variables in scope; `$` is the empty name.
    variables: Vec<String>,
    defined: BTreeMap<String, Vec<Node>>,
    loops: usize,
    depth: usize,
}

/// The word that ended a list of nodes.
type Stop = Option<(String, usize)>;

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn offset(&self) -> usize {
        self.tokens
            .get(self.at)
            .map_or(self.end, |token| token.offset)
    }

    /// One level deeper; the same counter for everything that recurses.
    fn enter(&mut self, offset: usize) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth <= MAX_DEPTH {
            return Ok(());
        }
        Err(Fault::new(
            offset,
            format!(
                "blocks, else-ifs and parentheses are nested more than {MAX_DEPTH} deep; move \
                 parts into templates of their own"
            ),
        ))
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Kind::Space) {
            self.at += 1;
        }
    }

    fn take(&mut self, kind: &Kind) -> bool {
        self.skip_space();
        let found = self.peek() == Some(kind);
        if found {
            self.at += 1;
        }
        found
    }

    fn close(&mut self, what: &str) -> Result<(), Fault> {
        if self.take(&Kind::Close) {
            Ok(())
        } else {
            Err(Fault::new(
                self.offset(),
                format!("unexpected {} in {what}", self.describe()),
            ))
        }
    }

    fn describe(&self) -> String {
        match self.peek() {
            None => "end of the template".to_owned(),
            Some(Kind::Word(word)) => format!("{word:?}"),
            Some(Kind::Close) => "}}".to_owned(),
            Some(other) => format!("{other:?}"),
        }
    }

    /// Nodes up to `end`, `else` or the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), Fault> {
        let mut nodes = Vec::new();
        let stop = loop {
            let offset = self.offset();
            match self.peek().cloned() {
                None => break None,
                Some(Kind::Text(text)) => {
                    self.at += 1;
                    nodes.push(Node::Text { text, offset });
                }
                Some(Kind::Open) => {
                    self.at += 1;
                    self.skip_space();
                    let word = match self.peek() {
                        Some(Kind::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    if word == "end" || word == "else" {
                        self.at += 1;
                        break Some((word, offset));
                    }
                    nodes.extend(self.action(&word, offset)?);
                }
                Some(_) => {
                    return Err(Fault::new(
                        offset,
                        format!("unexpected {}", self.describe()),
                    ));
                }
            }
        };
        Ok((nodes, stop))
    }

    fn action(&mut self, word: &str, offset: usize) -> Result<Option<Node>, Fault> {
        let known = matches!(
            word,
            "if" | "with" | "range" | "define" | "block" | "template" | "break" | "continue"
        );
        if known {
            self.at += 1;
        }
        match word {
            "if" | "with" | "range" => self.control(word, offset).map(Some),
            "define" if self.depth == 0 => self.define(offset).map(|()| None),
            "define" => Err(Fault::new(
                offset,
                "unexpected {{define}}; templates are defined outside of blocks",
            )),
            "block" => self.block(offset).map(Some),
            "template" => self.template(offset).map(Some),
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(Fault::new(
                        offset,
                        format!("{{{{{word}}}}} outside of range"),
                    ));
                }
                self.close(word)?;
                Ok(Some(if word == "break" {
                    Node::Break(offset)
                } else {
                    Node::Continue(offset)
                }))
            }
            _ => {
                let pipe = self.pipe("action")?;
                self.close("action")?;
                Ok(Some(Node::Action(pipe)))
            }
        }
    }

    fn control(&mut self, word: &str, offset: usize) -> Result<Node, Fault> {
        // An `else if` comes here from `otherwise`, so a chain of them counts as nesting.
        self.enter(offset)?;
        let scope = self.variables.len();
        let pipe = self.pipe(word)?;
        self.close(word)?;
        self.loops += usize::from(word == "range");
        let (then, stop) = self.nodes()?;
        self.loops -= usize::from(word == "range");
        let otherwise = self.otherwise(word, offset, stop)?;
        self.variables.truncate(scope);
        self.leave();
        Ok(match word {
            "if" => Node::If {
                pipe,
                then,
                otherwise,
            },
            "with" => Node::With {
                pipe,
                then,
                otherwise,
            },
            _ => Node::Range {
                pipe,
                body: then,
                otherwise,
            },
        })
    }

    fn otherwise(&mut self, word: &str, offset: usize, stop: Stop) -> Result<Vec<Node>, Fault> {
        let Some((stopped_by, at)) = stop else {
            return Err(Fault::new(
                offset,
                format!("{{{{{word}}}}} has no {{{{end}}}}"),
            ));
        };
        if stopped_by == "end" {
            self.close("end")?;
            return Ok(Vec::new());
        }
        self.skip_space();
        if let Some(Kind::Word(next)) = self.peek().cloned()
            && (next == "if" || next == "with")
            && next == word
        {
            // `else if`: the inner block takes the `end` of the outer one.
            self.at += 1;
            return Ok(vec![self.control(&next, at)?]);
        }
        self.close("else")?;
        let (nodes, stop) = self.nodes()?;
        match stop {
            Some((stopped_by, _)) if stopped_by == "end" => {
                self.close("end")?;
                Ok(nodes)
            }
            Some((_, at)) => Err(Fault::new(at, "expected {{end}}, found {{else}}")),
            None => Err(Fault::new(
                offset,
                format!("{{{{{word}}}}} has no {{{{end}}}}"),
            )),
        }
    }

    fn quoted_name(&mut self, what: &str) -> Result<String, Fault> {
        self.skip_space();
        match self.peek().cloned() {
            Some(Kind::Str(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(Fault::new(
                self.offset(),
                format!("{what} wants a quoted name"),
            )),
        }
    }

    fn body(&mut self, what: &str, offset: usize) -> Result<Vec<Node>, Fault> {
        self.enter(offset)?;
        let variables = std::mem::replace(&mut self.variables, vec![String::new()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, stop) = self.nodes()?;
        self.leave();
        self.variables = variables;
        self.loops = loops;
        match stop {
            Some((word, _)) if word == "end" => self.close("end").map(|()| nodes),
            _ => Err(Fault::new(
                offset,
                format!("{{{{{what}}}}} has no {{{{end}}}}"),
            )),
        }
    }

    fn define(&mut self, offset: usize) -> Result<(), Fault> {
        let name = self.quoted_name("define")?;
        self.close("define")?;
        let nodes = self.body("define", offset)?;
        self.keep(name, nodes, offset)
    }

    /// Of one name the template that is not blank counts, and there may be only one.
    fn keep(&mut self, name: String, nodes: Vec<Node>, offset: usize) -> Result<(), Fault> {
        let blank = |nodes: &[Node]| {
            nodes
                .iter()
                .all(|node| matches!(node, Node::Text { text, .. } if text.trim().is_empty()))
        };
        match self.defined.get(&name) {
            Some(before) if !blank(before) => {
                if blank(&nodes) {
                    return Ok(());
                }
                Err(Fault::new(
                    offset,
                    format!("multiple definition of template {name:?}"),
                ))
            }
            _ => {
                self.defined.insert(name, nodes);
                Ok(())
            }
        }
    }

    fn block(&mut self, offset: usize) -> Result<Node, Fault> {
        let name = self.quoted_name("block")?;
        let pipe = self.pipe("block")?;
        self.close("block")?;
        let nodes = self.body("block", offset)?;
        self.keep(name.clone(), nodes, offset)?;
        Ok(Node::Template {
            name,
            pipe: Some(pipe),
            offset,
        })
    }

    fn template(&mut self, offset: usize) -> Result<Node, Fault> {
        let name = self.quoted_name("template")?;
        self.skip_space();
        let pipe = if self.peek() == Some(&Kind::Close) {
            None
        } else {
            Some(self.pipe("template")?)
        };
        self.close("template")?;
        Ok(Node::Template { name, pipe, offset })
    }

    fn pipe(&mut self, context: &str) -> Result<Pipe, Fault> {
        self.enter(self.offset())?;
        self.skip_space();
        let mut pipe = Pipe {
            offset: self.offset(),
            ..Pipe::default()
        };
        self.declarations(&mut pipe, context)?;
        loop {
            pipe.commands.push(self.command(context)?);
            if !self.take(&Kind::Pipe) {
                break;
            }
        }
        // Later commands of a pipe are calls.
        for command in pipe.commands.iter().skip(1) {
            let callable = command.words.first().is_some_and(|word| {
                matches!(
                    word.term,
                    Term::Function(_) | Term::Variable(_) | Term::Paren(_)
                ) || (matches!(word.term, Term::Dot) && !word.fields.is_empty())
            });
            if !callable {
                return Err(Fault::new(command.offset, "a function is wanted after |"));
            }
        }
        if pipe.declares {
            self.variables.extend(pipe.variables.iter().cloned());
            if self.variables.len() > MAX_VARIABLES {
                return Err(Fault::new(
                    pipe.offset,
                    format!("more than {MAX_VARIABLES} variables; assign to one again with ="),
                ));
            }
        }
        self.leave();
        Ok(pipe)
    }

    /// `$x :=`, `$x =`, and in range `$i, $x :=`.
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), Fault> {
        let start = self.at;
        let mut names = Vec::new();
        loop {
            self.skip_space();
            let Some(Kind::Variable(name)) = self.peek().cloned() else {
                break;
            };
            self.at += 1;
            names.push(name);
            if !(context == "range" && names.len() == 1 && self.take(&Kind::Comma)) {
                break;
            }
        }
        let declares = self.take(&Kind::Declare);
        if names.is_empty() || !(declares || self.take(&Kind::Assign)) {
            self.at = start;
            return Ok(());
        }
        if !declares && let Some(unknown) = names.iter().find(|name| !self.variables.contains(name))
        {
            return Err(Fault::new(
                pipe.offset,
                format!("undefined variable \"${unknown}\""),
            ));
        }
        pipe.variables = names;
        pipe.declares = declares;
        Ok(())
    }

    fn command(&mut self, context: &str) -> Result<Command, Fault> {
        self.skip_space();
        let offset = self.offset();
        let mut words: Vec<Expr> = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                None | Some(Kind::Close | Kind::Right | Kind::Pipe) => break,
                _ => words.push(self.expression(context)?),
            }
            // As in Go, white space stands between two words.
            match self.peek() {
                None | Some(Kind::Space | Kind::Close | Kind::Right | Kind::Pipe) => {}
                _ => {
                    let message = format!("unexpected {} in operand", self.describe());
                    return Err(Fault::new(self.offset(), message));
                }
            }
        }
        if words.is_empty() {
            return Err(Fault::new(offset, format!("missing value for {context}")));
        }
        Ok(Command { words, offset })
    }

    fn expression(&mut self, context: &str) -> Result<Expr, Fault> {
        let offset = self.offset();
        let kind = self.peek().cloned();
        self.at += 1;
        let mut fields = Vec::new();
        let term = match kind {
            Some(Kind::Dot) => Term::Dot,
            Some(Kind::Field(name)) => {
                fields.push(name);
                Term::Dot
            }
            Some(Kind::Variable(name)) => {
                if !self.variables.contains(&name) {
                    return Err(Fault::new(
                        offset,
                        format!("undefined variable \"${name}\""),
                    ));
                }
                Term::Variable(name)
            }
            Some(Kind::Str(text)) => Term::Str(text),
            Some(Kind::Int(number)) => Term::Int(number),
            Some(Kind::Float(number)) => Term::Float(number),
            Some(Kind::Word(word)) => match word.as_str() {
                "true" => Term::Bool(true),
                "false" => Term::Bool(false),
                "nil" => Term::Nil,
                _ => {
                    self.functions
                        .check(&word)
                        .map_err(|message| Fault::new(offset, message))?;
                    Term::Function(word)
                }
            },
            Some(Kind::Left) => {
                let inner = self.pipe("parentheses")?;
                if !self.take(&Kind::Right) {
                    return Err(Fault::new(offset, "unclosed left parenthesis"));
                }
                Term::Paren(Box::new(inner))
            }
            _ => {
                self.at -= 1;
                return Err(Fault::new(
                    offset,
                    format!("unexpected {} in {context}", self.describe()),
                ));
            }
        };
        let constant = matches!(
            term,
            Term::Nil | Term::Bool(_) | Term::Int(_) | Term::Float(_) | Term::Str(_)
        ) || matches!(&term, Term::Dot if fields.is_empty());
        if constant && matches!(self.peek(), Some(Kind::Field(_))) {
            return Err(Fault::new(
                self.offset(),
                "unexpected . after a constant or a dot",
            ));
        }
        // A field chained without white space belongs to the term before it.
        while let Some(Kind::Field(name)) = self.peek().cloned() {
            self.at += 1;
            fields.push(name);
        }
        Ok(Expr {
            term,
            fields,
            offset,
        })
    }
}
