//! YAML text to a tree of plain data: mappings with string keys, lists, scalars.
//!
//! The events come from the parser inside `serde-saphyr`, before that crate's own deserializer would expand
//! aliases, drop tags or merge mappings. What makes one YAML text mean two things to two readers is refused
//! here: anchors, aliases, tags, merge keys, duplicate keys, directives, several documents, keys that are not
//! strings. Work is bounded by [`crate::bounds`]; nothing recurses.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_saphyr::granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span};

use crate::bounds::{MAX_DEPTH, MAX_NODES, MAX_TEXT};
use crate::error::{Finding, Findings, Rule, quoted};
use crate::node::{Entry, Kind, Node, Scalar, ScalarKind};

/// Reads the one document of the text. What is refused becomes a finding; `None` when there is no tree to go
/// on with.
pub(crate) fn parse(text: &str, findings: &mut Findings) -> Option<Node> {
    let mut tree = Tree { text, open: Vec::new(), root: None, nodes: 0, documents: 0 };
    for event in Parser::new_from_str_with_options(text, options()) {
        match event {
            Ok((event, span)) => {
                if !tree.event(event, span, findings) {
                    return None;
                }
            }
            Err(error) => {
                findings.push(syntax(text, &error));
                return None;
            }
        }
    }
    tree.root
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.emit_unresolved_aliases = true;
    options.emit_anchor_events = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options
}

/// The tree while it grows.
struct Tree<'t> {
    text: &'t str,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
}

/// A collection that has not ended.
enum Open {
    List { start: usize, items: Vec<Node> },
    Map { start: usize, entries: Vec<Entry>, seen: BTreeMap<String, Range<usize>>, key: Option<Key> },
}

/// A key that waits for its value.
struct Key {
    text: String,
    span: Range<usize>,
    /// Whether the entry goes into the tree, or was refused and is dropped with its value.
    keep: bool,
}

impl Tree<'_> {
    /// Takes one event; false when reading on would be pointless.
    fn event(&mut self, event: Event<'_>, place: Span, findings: &mut Findings) -> bool {
        let span = &place.byte_range().unwrap_or(0..0);
        match event {
            Event::DocumentStart(..) => return self.document(span, findings),
            Event::Scalar(value, style, _, tag) => {
                if tag.is_some() {
                    self.tag(place, findings);
                }
                return self.scalar(&value, style, span, findings);
            }
            Event::SequenceStart(_, _, tag) => {
                if tag.is_some() {
                    self.tag(place, findings);
                }
                return self.begin(Open::List { start: span.start, items: Vec::new() }, span, findings);
            }
            Event::MappingStart(_, _, tag) => {
                if tag.is_some() {
                    self.tag(place, findings);
                }
                let (entries, seen) = (Vec::new(), BTreeMap::new());
                return self.begin(Open::Map { start: span.start, entries, seen, key: None }, span, findings);
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span, findings),
            Event::Anchor(_, name) => findings.push(
                Finding::new(
                    Rule::PlainYaml,
                    span.clone(),
                    format!("the anchor {} is not allowed", quoted(&name)),
                )
                .label("anchor")
                .hint("remove it, and write values out where they are needed"),
            ),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let written = self.text.get(span.clone()).unwrap_or("");
                findings.push(
                    Finding::new(
                        Rule::PlainYaml,
                        span.clone(),
                        format!("the alias {} is not allowed", quoted(written)),
                    )
                    .label("alias")
                    .hint("write the value out here; a value that begins with `*` needs quotes"),
                );
                return self.add(Node { span: span.clone(), kind: Kind::Refused }, findings);
            }
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Comment(..) => {}
            // The enum is open, and what is not known is not trusted.
            _ => {
                let finding =
                    Finding::new(Rule::Syntax, span.clone(), "the YAML has something that is not known");
                findings.push(finding.hint("write plain keys, lists and values"));
                return false;
            }
        }
        true
    }

    fn document(&mut self, span: &Range<usize>, findings: &mut Findings) -> bool {
        self.documents = self.documents.saturating_add(1);
        if self.documents > 1 {
            findings.push(
                Finding::new(Rule::PlainYaml, span.clone(), "the file has a second YAML document")
                    .label("it begins here")
                    .hint("a file holds one policy; put the other one into a file of its own"),
            );
        }
        self.documents == 1
    }

    fn tag(&self, place: Span, findings: &mut Findings) {
        let span = place.tag_span().unwrap_or(place).byte_range().unwrap_or(0..0);
        let written = self.text.get(span.clone()).unwrap_or("");
        findings.push(
            Finding::new(Rule::PlainYaml, span, format!("the tag {} is not allowed", quoted(written)))
                .label("tag")
                .hint("remove it: every key has one type; a value that begins with `!` needs quotes"),
        );
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        span: &Range<usize>,
        findings: &mut Findings,
    ) -> bool {
        let kind = if style == ScalarStyle::Plain { ScalarKind::of_plain(text) } else { ScalarKind::Text };
        let length = text.chars().count();
        let kind = if length > MAX_TEXT {
            let message = format!("the value has {length} characters, {MAX_TEXT} are allowed");
            findings
                .push(Finding::new(Rule::Bounds, first_line(self.text, span), message).hint("shorten it"));
            Kind::Refused
        } else if text.contains('\0') {
            let finding = Finding::new(Rule::Value, span.clone(), "the value has a NUL character");
            findings
                .push(finding.label("in here").hint("remove it: no path, argument or variable can have one"));
            Kind::Refused
        } else {
            Kind::Scalar(Scalar { text: text.to_owned(), kind })
        };
        self.add(Node { span: span.clone(), kind }, findings)
    }

    fn begin(&mut self, open: Open, span: &Range<usize>, findings: &mut Findings) -> bool {
        self.open.push(open);
        self.count(span, findings)
    }

    fn end(&mut self, span: &Range<usize>, findings: &mut Findings) {
        let node = match self.open.pop() {
            Some(Open::List { start, items }) => {
                let last = items.last().map(|item| item.span.end);
                Node { span: collection(self.text, start, last, span), kind: Kind::List(items) }
            }
            Some(Open::Map { start, entries, .. }) => {
                let last = entries.last().map(|entry| entry.value.span.end.max(entry.key_span.end));
                Node { span: collection(self.text, start, last, span), kind: Kind::Map(entries) }
            }
            None => return,
        };
        self.place(node, findings);
    }

    /// Counts a finished scalar and puts it into the tree.
    fn add(&mut self, node: Node, findings: &mut Findings) -> bool {
        let more = self.count(&node.span, findings);
        self.place(node, findings);
        more
    }

    fn count(&mut self, span: &Range<usize>, findings: &mut Findings) -> bool {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} keys and values");
            let hint = "a policy describes one server; remove what does not belong to it";
            findings.push(
                Finding::new(Rule::Bounds, span.clone(), message).label("the limit is here").hint(hint),
            );
        }
        self.nodes <= MAX_NODES
    }

    /// Puts a finished node where it belongs: the root, a list, a key, or a key's value.
    fn place(&mut self, node: Node, findings: &mut Findings) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, seen, key, .. }) => match key.take() {
                None => *key = Some(as_key(self.text, node, seen, findings)),
                Some(Key { text, span, keep: true }) => {
                    entries.push(Entry { key: text, key_span: span, value: node });
                }
                Some(Key { keep: false, .. }) => {}
            },
        }
    }
}

fn as_key(text: &str, node: Node, seen: &mut BTreeMap<String, Range<usize>>, findings: &mut Findings) -> Key {
    let span = first_line(text, &node.span);
    let refused = |text: String, span: Range<usize>| Key { text, span, keep: false };
    let scalar = match node.kind {
        Kind::Scalar(scalar) => scalar,
        Kind::Refused => return refused(String::new(), span),
        Kind::List(_) | Kind::Map(_) => {
            let finding = Finding::new(Rule::PlainYaml, span.clone(), "a list or mapping is used as a key");
            findings.push(finding.label("key").hint("keys are words"));
            return refused(String::new(), span);
        }
    };
    if scalar.text == "<<" {
        let finding = Finding::new(Rule::PlainYaml, span.clone(), "merge keys are not allowed");
        findings.push(finding.label("merge key").hint("write the keys out here"));
        return refused(scalar.text, span);
    }
    if scalar.kind != ScalarKind::Text {
        let message = format!("the key {} is not a string", quoted(&scalar.text));
        let hint = format!("if it is meant, put it in quotes: \"{}\"", scalar.text.escape_debug());
        findings.push(Finding::new(Rule::PlainYaml, span.clone(), message).label("key").hint(hint));
        return refused(scalar.text, span);
    }
    if let Some(first) = seen.get(&scalar.text) {
        findings.push(
            Finding::new(
                Rule::DuplicateKey,
                span.clone(),
                format!("the key {} is written twice", quoted(&scalar.text)),
            )
            .label("again here")
            .related(first.clone(), "first here")
            .hint("keep one of them"),
        );
        return refused(scalar.text, span);
    }
    seen.insert(scalar.text.clone(), span.clone());
    Key { text: scalar.text, span, keep: true }
}

/// The bytes of a collection. The end event of a flow collection is its bracket; that of a block one lies on
/// the next token, which may be many lines further.
fn collection(text: &str, start: usize, last: Option<usize>, end: &Range<usize>) -> Range<usize> {
    let flow = text.get(start..).is_some_and(|rest| rest.starts_with(['[', '{']));
    let stop = if flow { end.end } else { last.unwrap_or(start) };
    start..stop.max(start)
}

/// A span without what follows its first line.
fn first_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let length = text.get(span.clone()).and_then(|s| s.lines().next()).map_or(0, str::len);
    span.start..span.start.saturating_add(length)
}

fn syntax(text: &str, error: &ScanError) -> Finding {
    let at = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let start = text.floor_char_boundary(at);
    let width = text
        .get(start..)
        .and_then(|rest| rest.chars().next())
        .filter(|&c| c != '\n')
        .map_or(0, char::len_utf8);
    let span = start..start.saturating_add(width);
    if *error.kind() == ErrorKind::RecursionLimitExceeded {
        return Finding::new(Rule::Bounds, span, format!("the file nests deeper than {MAX_DEPTH} levels"))
            .label("too deep")
            .hint("no key of a policy is that deep; check the indentation and the brackets");
    }
    if *error.kind() == ErrorKind::DirectiveDisallowed {
        return Finding::new(Rule::PlainYaml, span, "a YAML directive is not allowed")
            .label("directive")
            .hint("remove the line");
    }
    Finding::new(Rule::Syntax, span, format!("the file is not well-formed YAML: {}", sentence(&error.info())))
        .label("here")
        .hint("check the indentation, the quotes and the brackets up to here")
}

/// A parser's message as part of a sentence of ours.
fn sentence(info: &str) -> String {
    let line: String = info.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.trim().trim_end_matches('.');
    let mut chars = line.chars();
    match chars.next() {
        // A word in capitals, such as YAML, stays as it is.
        Some(first) if !chars.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(chars).collect()
        }
        Some(_) | None => line.to_owned(),
    }
}
