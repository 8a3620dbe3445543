//! Tree + data -> text, within bounds. PURE.

use super::error::Fault;
use super::format;
use super::functions::Functions;
use super::parse::{Command, Expr, Node, Pipe, Term, Tree};
use super::{Limits, Value};

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
        limits,
        out: String::new(),
        variables: vec![(String::new(), data.clone())],
        steps: 0,
        depth: 0,
    };
    eval.nodes(&tree.root, data)?;
    Ok(eval.out)
}

struct Eval<'a> {
    tree: &'a Tree,
    functions: &'a Functions,
    limits: &'a Limits,
    out: String,
    variables: Vec<(String, Value)>,
    steps: usize,
    depth: usize,
}

/// Whether a loop goes on.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl Eval<'_> {
    fn step(&mut self, offset: usize) -> Result<(), Fault> {
        self.steps += 1;
        if self.steps > self.limits.steps {
            return Err(Fault::new(
                offset,
                format!("more than {} steps", self.limits.steps),
            ));
        }
        Ok(())
    }

    fn write(&mut self, text: &str, offset: usize) -> Result<(), Fault> {
        if self.out.len() + text.len() > self.limits.output_bytes {
            return Err(Fault::new(
                offset,
                format!("more than {} bytes of output", self.limits.output_bytes),
            ));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Fault> {
        for node in nodes {
            self.step(0)?;
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, Fault> {
        match node {
            Node::Text(text) => self.write(text, 0)?,
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.write(&format::action(&value), pipe.offset)?;
                }
            }
            Node::If {
                pipe,
                then,
                otherwise,
            } => {
                let scope = self.variables.len();
                let value = self.pipe(pipe, dot)?;
                let flow = self.nodes(if value.truth() { then } else { otherwise }, dot)?;
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::With {
                pipe,
                then,
                otherwise,
            } => {
                let scope = self.variables.len();
                let value = self.pipe(pipe, dot)?;
                let flow = if value.truth() {
                    self.nodes(then, &value)?
                } else {
                    self.nodes(otherwise, dot)?
                };
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Range {
                pipe,
                body,
                otherwise,
            } => return self.range(pipe, body, otherwise, dot),
            Node::Template { name, pipe, offset } => {
                self.call_template(name, pipe.as_ref(), *offset, dot)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        pipe: &Pipe,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, Fault> {
        let scope = self.variables.len();
        let over = self.commands(pipe, dot)?;
        let items: Vec<(Value, Value)> = match over {
            Value::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| (Value::Int(index as i64), item))
                .collect(),
            Value::Map(fields) => fields
                .into_iter()
                .map(|(key, item)| (Value::String(key), item))
                .collect(),
            Value::Int(count) => {
                let count = count.clamp(0, self.limits.steps as i64);
                (0..count)
                    .map(|index| (Value::Int(index), Value::Int(index)))
                    .collect()
            }
            Value::Nil => Vec::new(),
            other => {
                return Err(Fault::new(
                    pipe.offset,
                    format!("range can't iterate over {}", other.kind()),
                ));
            }
        };
        if items.is_empty() {
            let flow = self.nodes(otherwise, dot)?;
            self.variables.truncate(scope);
            return Ok(flow);
        }
        for (key, item) in items {
            self.step(pipe.offset)?;
            match pipe.variables.as_slice() {
                [name] => self.set(name, item.clone(), pipe.declares),
                [first, second] => {
                    self.set(first, key, pipe.declares);
                    self.set(second, item.clone(), pipe.declares);
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
        self.depth += 1;
        if self.depth > self.limits.depth {
            return Err(Fault::new(offset, "templates call each other too deeply"));
        }
        let variables = std::mem::replace(&mut self.variables, vec![(String::new(), data.clone())]);
        self.nodes(nodes, &data)?;
        self.variables = variables;
        self.depth -= 1;
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) {
        if !declares
            && let Some(existing) = self
                .variables
                .iter_mut()
                .rev()
                .find(|(other, _)| other == name)
        {
            existing.1 = value;
            return;
        }
        self.variables.push((name.to_owned(), value));
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Fault> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe.declares);
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Fault> {
        let mut last = None;
        for command in &pipe.commands {
            self.step(command.offset)?;
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
        let mut args = Vec::with_capacity(words.len() + 1);
        for word in words {
            args.push(self.expression(word, dot)?);
        }
        args.extend(piped);
        self.functions
            .call(name, &args)
            .map_err(|message| Fault::new(offset, format!("{name}: {message}")))
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
        self.step(expr.offset)?;
        let value = match &expr.term {
            Term::Dot => return chain(dot, &expr.fields, expr.offset),
            Term::Nil => Value::Nil,
            Term::Bool(flag) => Value::Bool(*flag),
            Term::Int(number) => Value::Int(*number),
            Term::Float(number) => Value::Float(*number),
            Term::Str(text) => Value::String(text.clone()),
            Term::Variable(name) => {
                let found = self.variables.iter().rev().find(|(other, _)| other == name);
                match found {
                    Some((_, value)) => return chain(value, &expr.fields, expr.offset),
                    None => {
                        return Err(Fault::new(
                            expr.offset,
                            format!("undefined variable \"${name}\""),
                        ));
                    }
                }
            }
            Term::Function(name) => self.call(name, &[], dot, None, expr.offset)?,
            Term::Paren(pipe) => {
                let scope = self.variables.len();
                self.depth += 1;
                let value = self.pipe(pipe, dot)?;
                self.depth -= 1;
                self.variables.truncate(scope);
                value
            }
        };
        fields(value, &expr.fields, expr.offset)
    }
}

fn fields(value: Value, names: &[String], offset: usize) -> Result<Value, Fault> {
    if names.is_empty() {
        Ok(value)
    } else {
        chain(&value, names, offset)
    }
}

fn chain(value: &Value, names: &[String], offset: usize) -> Result<Value, Fault> {
    let mut value = value;
    for (index, name) in names.iter().enumerate() {
        value = match value {
            Value::Map(fields) => match fields.get(name) {
                Some(next) => next,
                None if index + 1 == names.len() => return Ok(Value::Nil),
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
    Ok(value.clone())
}
