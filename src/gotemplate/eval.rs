//! Tree + data -> text, within bounds. PURE.

use super::budget::Budget;
use super::error::Fault;
use super::format;
use super::functions::Functions;
use super::tree::{Command, Expr, Node, Pipe, Term, Tree};
use super::{Limits, Value, value};

/// Renders the tree.
pub(super) fn render(
    tree: &Tree,
    data: &Value,
    functions: &Functions,
    limits: &Limits,
) -> Result<String, Fault> {
    let mut eval = Eval {
        tree,
        functions,
        budget: Budget::new(limits),
        out: String::new(),
        variables: vec![(String::new(), data.clone())],
    };
    eval.nodes(&tree.root, data)?;
    Ok(eval.out)
}

struct Eval<'a> {
    tree: &'a Tree,
    functions: &'a Functions,
    budget: Budget<'a>,
    out: String,
    variables: Vec<(String, Value)>,
}

/// Whether a loop goes on.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl Eval<'_> {
    fn write(&mut self, text: &str, offset: usize) -> Result<(), Fault> {
        self.budget.output(self.out.len() + text.len(), offset)?;
        self.out.push_str(text);
        Ok(())
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Fault> {
        for node in nodes {
            self.budget.step(node.offset())?;
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, Fault> {
        match node {
            Node::Text { text, offset } => self.write(text, *offset)?,
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.write(&format::action(&value), pipe.offset)?;
                }
            }
            Node::If { pipe, .. } | Node::With { pipe, .. } | Node::Range { pipe, .. } => {
                self.budget.enter(pipe.offset)?;
                let scope = self.variables.len();
                let flow = self.block(node, dot)?;
                self.variables.truncate(scope);
                self.budget.leave();
                return Ok(flow);
            }
            Node::Template { name, pipe, offset } => {
                self.call_template(name, pipe.as_ref(), *offset, dot)?;
            }
            Node::Break(_) => return Ok(Flow::Break),
            Node::Continue(_) => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn block(&mut self, node: &Node, dot: &Value) -> Result<Flow, Fault> {
        match node {
            Node::If {
                pipe,
                then,
                otherwise,
            } => {
                let taken = self.pipe(pipe, dot)?.truth();
                self.nodes(if taken { then } else { otherwise }, dot)
            }
            Node::With {
                pipe,
                then,
                otherwise,
            } => {
                let value = self.pipe(pipe, dot)?;
                if value.truth() {
                    self.nodes(then, &value)
                } else {
                    self.nodes(otherwise, dot)
                }
            }
            Node::Range {
                pipe,
                body,
                otherwise,
            } => self.range(pipe, body, otherwise, dot),
            _ => Ok(Flow::On),
        }
    }

    fn range(
        &mut self,
        pipe: &Pipe,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, Fault> {
        let mut items: Items = match self.commands(pipe, dot)? {
            Value::List(items) => Box::new(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| (Value::Int(index as i64), item)),
            ),
            Value::Map(fields) => Box::new(
                fields
                    .into_iter()
                    .map(|(key, item)| (Value::String(key), item)),
            ),
            Value::Int(count) => {
                Box::new((0..count).map(|index| (Value::Int(index), Value::Int(index))))
            }
            Value::Nil => Box::new(std::iter::empty()),
            other => {
                return Err(Fault::new(
                    pipe.offset,
                    format!("range can't iterate over {}", other.kind()),
                ));
            }
        };
        let Some(first) = items.next() else {
            return self.nodes(otherwise, dot);
        };
        let scope = self.variables.len();
        for (key, item) in std::iter::once(first).chain(items) {
            self.budget.step(pipe.offset)?;
            match pipe.variables.as_slice() {
                [name] => self.set(name, item.clone(), pipe)?,
                [first, second] => {
                    self.set(first, key, pipe)?;
                    self.set(second, item.clone(), pipe)?;
                }
                _ => {}
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn call_template(
        &mut self,
        name: &str,
        pipe: Option<&Pipe>,
        offset: usize,
        dot: &Value,
    ) -> Result<(), Fault> {
        let Some(nodes) = self.tree.defined.get(name) else {
            return Err(Fault::new(offset, format!("template {name:?} not defined")));
        };
        let data = match pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Value::Nil,
        };
        self.budget.enter(offset)?;
        self.budget.charge(&data, offset)?;
        let variables = std::mem::replace(&mut self.variables, vec![(String::new(), data.clone())]);
        self.nodes(nodes, &data)?;
        self.variables = variables;
        self.budget.leave();
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value, pipe: &Pipe) -> Result<(), Fault> {
        self.budget.charge(&value, pipe.offset)?;
        if !pipe.declares
            && let Some(existing) = self
                .variables
                .iter_mut()
                .rev()
                .find(|(other, _)| other == name)
        {
            existing.1 = value;
            return Ok(());
        }
        self.variables.push((name.to_owned(), value));
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Fault> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe)?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Fault> {
        let mut last = None;
        for command in &pipe.commands {
            self.budget.step(command.offset)?;
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, Fault> {
        let Some((first, rest)) = command.words.split_first() else {
            return Ok(Value::Nil);
        };
        if let Term::Function(name) = &first.term {
            let value = self.call(name, rest, dot, piped, command.offset)?;
            return fields(value, &first.fields, first.offset);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err(Fault::new(
                first.offset,
                "can't give argument to non-function",
            ));
        }
        if matches!(first.term, Term::Nil) {
            return Err(Fault::new(first.offset, "nil is not a command"));
        }
        self.expression(first, dot)
    }

    fn call(
        &mut self,
        name: &str,
        words: &[Expr],
        dot: &Value,
        piped: Option<Value>,
        offset: usize,
    ) -> Result<Value, Fault> {
        if name == "and" || name == "or" {
            return self.short_circuit(name == "and", words, dot, piped, offset);
        }
        // Together no larger than one value may be, so that no function makes much of them.
        let mut args = Vec::new();
        let mut bytes = 0;
        let mut add = |value: Value, offset| {
            bytes += value
                .weigh()
                .map_err(|message| Fault::new(offset, message))?;
            args.push(value);
            if bytes > value::MAX_BYTES {
                return Err(Fault::new(
                    offset,
                    format!("{name}: {}", value::too_large()),
                ));
            }
            Ok(())
        };
        for word in words {
            add(self.expression(word, dot)?, word.offset)?;
        }
        if let Some(piped) = piped {
            add(piped, offset)?;
        }
        let result = self
            .functions
            .call(name, &args)
            .map_err(|message| Fault::new(offset, format!("{name}: {message}")))?;
        self.budget.charge(&result, offset)?;
        Ok(result)
    }

    /// `and` and `or` stop at the first value that decides, as Go does.
    fn short_circuit(
        &mut self,
        all: bool,
        words: &[Expr],
        dot: &Value,
        piped: Option<Value>,
        offset: usize,
    ) -> Result<Value, Fault> {
        let mut last = None;
        for word in words {
            let value = self.expression(word, dot)?;
            if value.truth() != all {
                return Ok(value);
            }
            last = Some(value);
        }
        piped
            .or(last)
            .ok_or_else(|| Fault::new(offset, "wants at least one argument"))
    }

    fn expression(&mut self, expr: &Expr, dot: &Value) -> Result<Value, Fault> {
        self.budget.step(expr.offset)?;
        let value = match &expr.term {
            Term::Dot => return self.copy(dot, expr),
            Term::Nil => Value::Nil,
            Term::Bool(flag) => Value::Bool(*flag),
            Term::Int(number) => Value::Int(*number),
            Term::Float(number) => Value::Float(*number),
            Term::Str(text) => {
                let value = Value::String(text.clone());
                self.budget.charge(&value, expr.offset)?;
                value
            }
            Term::Variable(name) => {
                let found = self.variables.iter().rev().find(|(other, _)| other == name);
                let Some((_, value)) = found else {
                    return Err(Fault::new(
                        expr.offset,
                        format!("undefined variable \"${name}\""),
                    ));
                };
                let value = chain(value, &expr.fields, expr.offset)?;
                self.budget.charge(value, expr.offset)?;
                return Ok(value.clone());
            }
            Term::Function(name) => self.call(name, &[], dot, None, expr.offset)?,
            Term::Paren(pipe) => {
                let scope = self.variables.len();
                self.budget.enter(expr.offset)?;
                let value = self.pipe(pipe, dot)?;
                self.budget.leave();
                self.variables.truncate(scope);
                value
            }
        };
        fields(value, &expr.fields, expr.offset)
    }

    /// The value at the expression's fields, copied: counted before it is.
    fn copy(&mut self, value: &Value, expr: &Expr) -> Result<Value, Fault> {
        let value = chain(value, &expr.fields, expr.offset)?;
        self.budget.charge(value, expr.offset)?;
        Ok(value.clone())
    }
}

/// Keys and items of a range.
type Items = Box<dyn Iterator<Item = (Value, Value)>>;

fn fields(value: Value, names: &[String], offset: usize) -> Result<Value, Fault> {
    if names.is_empty() {
        Ok(value)
    } else {
        chain(&value, names, offset).cloned()
    }
}

fn chain<'v>(value: &'v Value, names: &[String], offset: usize) -> Result<&'v Value, Fault> {
    let mut value = value;
    for (index, name) in names.iter().enumerate() {
        value = match value {
            Value::Map(fields) => match fields.get(name) {
                Some(next) => next,
                None if index + 1 == names.len() => return Ok(&Value::Nil),
                None => {
                    return Err(Fault::new(
                        offset,
                        format!("nil pointer evaluating interface {{}}.{}", names[index + 1]),
                    ));
                }
            },
            Value::Struct(fields) => fields.get(name).ok_or_else(|| {
                let known: Vec<_> = fields.keys().map(String::as_str).collect();
                Fault::new(
                    offset,
                    format!(
                        "there is no field .{name}; known are .{}",
                        known.join(", .")
                    ),
                )
            })?,
            Value::Nil => {
                return Err(Fault::new(
                    offset,
                    format!("nil pointer evaluating interface {{}}.{name}"),
                ));
            }
            other => {
                return Err(Fault::new(
                    offset,
                    format!("can't evaluate field {name} in type {}", other.kind()),
                ));
            }
        };
    }
    Ok(value)
}
