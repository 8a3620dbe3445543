//! Tree + data -> text, within bounds. PURE.

use super::budget::{Budget, Spent};
use super::error::Fault;
use super::format;
use super::functions::{Functions, Work};
use super::tree::{Command, Expr, Node, Pipe, Term, Tree};
use super::version::Version;
use super::{Limits, Value, value};

/// Renders the tree; `spent` is what the renderings before it used, and is added to.
pub(super) fn render(
    tree: &Tree,
    data: &Value,
    functions: &Functions,
    limits: &Limits,
    whole: &Limits,
    spent: &mut Spent,
) -> Result<String, Fault> {
    let mut eval = Eval {
        tree,
        functions,
        budget: Budget::new(limits, whole, *spent),
        work: Work::default(),
        out: String::new(),
        variables: vec![(String::new(), data.clone())],
    };
    let done = eval.nodes(&tree.root, data);
    *spent = eval.budget.spent();
    done?;
    Ok(eval.out)
}

struct Eval<'a> {
    tree: &'a Tree,
    functions: &'a Functions,
    budget: Budget<'a>,
    work: Work,
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
        self.budget.output(text.len(), offset)?;
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
        let scope = self.variables.len();
        let value = self.pipe(pipe, dot)?;
        let one_only = || match pipe.variables.len() {
            2 => Err(Fault::new(
                pipe.offset,
                "can't use a number to iterate over more than one variable",
            )),
            _ => Ok(()),
        };
        let mut items: Items = match value {
            Value::List(list) => Box::new(
                list.items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| (Value::Int(index as i64), item)),
            ),
            Value::Map(dict) => Box::new(
                dict.entries()
                    .into_iter()
                    .map(|(key, item)| (Value::String(key), item)),
            ),
            Value::Int(count) => {
                one_only()?;
                Box::new((0..count).map(|index| (Value::Nil, Value::Int(index))))
            }
            Value::Int64(count) => {
                one_only()?;
                Box::new((0..count).map(|index| (Value::Nil, Value::Int64(index))))
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
        for (key, item) in std::iter::once(first).chain(items) {
            self.budget.step(pipe.offset)?;
            self.variables.truncate(scope);
            match pipe.variables.as_slice() {
                [name] => self.set(name, item.clone(), pipe)?,
                [first, second] => {
                    self.set(first, key, pipe)?;
                    self.set(second, item.clone(), pipe)?;
                }
                _ => {}
            }
            if self.nodes(body, &item)? == Flow::Break {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::On)
    }

    fn call_template(
        &mut self,
        name: &str,
        pipe: Option<&Pipe>,
        offset: usize,
        dot: &Value,
    ) -> Result<(), Fault> {
        let data = match pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Value::Nil,
        };
        self.run_template(name, &data, offset)
    }

    fn run_template(&mut self, name: &str, data: &Value, offset: usize) -> Result<(), Fault> {
        let tree = self.tree;
        let Some(nodes) = tree.defined.get(name) else {
            return Err(Fault::new(offset, format!("template {name:?} not defined")));
        };
        self.budget.enter(offset)?;
        self.budget.charge(data, offset)?;
        let variables = std::mem::replace(&mut self.variables, vec![(String::new(), data.clone())]);
        self.nodes(nodes, data)?;
        self.variables = variables;
        self.budget.leave();
        Ok(())
    }

    /// Helm's `include`: a template's output as a value.
    fn include(&mut self, args: &[Value], offset: usize) -> Result<Value, Fault> {
        let [Value::String(name), data] = args else {
            return Err(Fault::new(
                offset,
                "include: wants the name of a template and its data",
            ));
        };
        let before = std::mem::take(&mut self.out);
        let done = self.run_template(name, data, offset);
        let text = std::mem::replace(&mut self.out, before);
        done.map(|()| Value::String(text))
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
        if let Term::Function(name) = &first.term
            && first.fields.is_empty()
        {
            return self.call(name, rest, dot, piped, command.offset);
        }
        // A method of a value may take arguments; no field may.
        if let Some((method, before)) = first.fields.split_last()
            && METHODS.contains(&method.as_str())
        {
            let receiver = Expr {
                term: first.term.clone(),
                fields: before.to_vec(),
                offset: first.offset,
            };
            if let Value::Version(version) = self.expression(&receiver, dot)? {
                let mut args = Vec::new();
                for word in rest {
                    args.push(self.expression(word, dot)?);
                }
                args.extend(piped);
                return call_method(&version, method, &args)
                    .map_err(|message| Fault::new(first.offset, format!("{method}: {message}")));
            }
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
        let mut literal = Vec::new();
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
            literal
                .push(word.fields.is_empty() && matches!(word.term, Term::Int(_) | Term::Float(_)));
        }
        if let Some(piped) = piped {
            add(piped, offset)?;
        }
        if name == "include" {
            let text = self.include(&args, offset)?;
            self.budget.charge(&text, offset)?;
            return Ok(text);
        }
        (self.work.left, self.work.taken) = (self.budget.left(), 0);
        let result = self
            .functions
            .call(name, &mut self.work, args, &literal)
            .map_err(|message| Fault::new(offset, format!("{name}: {message}")));
        self.budget.charge_bytes(self.work.taken, offset)?;
        let result = result?;
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
                self.budget.charge(&value, expr.offset)?;
                return Ok(value);
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
        self.budget.charge(&value, expr.offset)?;
        Ok(value)
    }
}

/// Keys and items of a range.
type Items = Box<dyn Iterator<Item = (Value, Value)>>;

fn fields(value: Value, names: &[String], offset: usize) -> Result<Value, Fault> {
    if names.is_empty() {
        Ok(value)
    } else {
        chain(&value, names, offset)
    }
}

fn chain(value: &Value, names: &[String], offset: usize) -> Result<Value, Fault> {
    let mut names = names.iter();
    let mut value = match names.next() {
        Some(name) => field(value, name, offset)?,
        None => return Ok(value.clone()),
    };
    for name in names {
        value = field(&value, name, offset)?;
    }
    Ok(value)
}

fn field(value: &Value, name: &str, offset: usize) -> Result<Value, Fault> {
    match value {
        Value::Map(dict) => Ok(dict.read().get(name).cloned().unwrap_or_default()),
        Value::Struct(fields) => fields.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = fields.keys().map(String::as_str).collect();
            Fault::new(
                offset,
                format!(
                    "there is no field .{name}; known are .{}",
                    known.join(", .")
                ),
            )
        }),
        Value::Version(version) if METHODS.contains(&name) => call_method(version, name, &[])
            .map_err(|message| Fault::new(offset, format!("{name}: {message}"))),
        Value::Nil => Err(Fault::new(
            offset,
            format!("nil pointer evaluating interface {{}}.{name}"),
        )),
        other => Err(Fault::new(
            offset,
            format!("can't evaluate field {name} in type {}", other.type_name()),
        )),
    }
}

/// What sprig's `semver` gives can be asked.
const METHODS: [&str; 12] = [
    "Major",
    "Minor",
    "Patch",
    "Prerelease",
    "Metadata",
    "Original",
    "String",
    "Compare",
    "Equal",
    "LessThan",
    "GreaterThan",
    "LessThanEqual",
];

fn call_method(version: &Version, name: &str, args: &[Value]) -> Result<Value, String> {
    let [major, minor, patch] = version.numbers().map(|number| Value::Int64(number as i64));
    match (name, args) {
        ("Major", []) => Ok(major),
        ("Minor", []) => Ok(minor),
        ("Patch", []) => Ok(patch),
        ("Prerelease", []) => Ok(version.prerelease().into()),
        ("Metadata", []) => Ok(version.metadata().into()),
        ("Original", []) => Ok(version.original().into()),
        ("String", []) => Ok(version.to_string().into()),
        (_, [Value::Version(other)]) => {
            let order = version.compare(other);
            Ok(match name {
                "Compare" => Value::Int(order as i64),
                "Equal" => Value::Bool(order.is_eq()),
                "LessThan" => Value::Bool(order.is_lt()),
                "GreaterThan" => Value::Bool(order.is_gt()),
                "LessThanEqual" => Value::Bool(order.is_le()),
                _ => return Err("wrong number of args: want 0 got 1".to_owned()),
            })
        }
        _ => Err("wants another version, made by semver".to_owned()),
    }
}
