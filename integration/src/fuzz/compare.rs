//! Finding what two sides do not agree on.

use std::fmt;

use super::allow::{Case, is_allowed};
use super::outcome::{Field, Outcome, Value, first_difference};
use super::step::Op;
use super::tree::Tree;

/// What the sides do not agree on.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The step, or the number of all steps when it showed in the trees afterwards.
    pub at: usize,
    /// The call, or which trees.
    pub what: String,
    /// The value.
    pub field: String,
    /// The local filesystem's, as text.
    pub local: String,
    /// The mount's, as text.
    pub mount: String,
    /// Further words.
    pub note: String,
}

impl Difference {
    /// Whether two are likely the same bug.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.what == other.what && bare(&self.field) == bare(&other.field)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} differs{}", self.what, self.field, self.note)?;
        writeln!(f, "    local: {}", self.local)?;
        write!(f, "    mount: {}", self.mount)
    }
}

/// A field's name without the number of the watched object, or without the path in a tree.
fn bare(field: &str) -> &str {
    field.rsplit_once(['.', ' ']).map_or(field, |(_, name)| name)
}

/// The first difference of two outcomes of one call that is not allowed.
#[must_use]
pub fn compare(op: &Op, local: &Outcome, mount: &Outcome) -> Option<Difference> {
    fields(Some(op), &local.fields, &mount.fields).map(|(field, note)| Difference {
        at: 0,
        what: op.name().into(),
        field,
        local: local.to_string(),
        mount: mount.to_string(),
        note,
    })
}

fn fields(op: Option<&Op>, local: &[Field], mount: &[Field]) -> Option<(String, String)> {
    for (l, m) in local.iter().zip(mount) {
        if l == m {
            continue;
        }
        if l.name != m.name {
            return Some((l.name.clone(), format!(" ({} there)", m.name)));
        }
        let case = Case { op, field: bare(&l.name), local: &l.value, mount: &m.value };
        if is_allowed(&case) {
            // What follows an errno on one side and none on the other has no counterpart.
            if l.name == "result" {
                return None;
            }
            continue;
        }
        let note = match (&l.value, &m.value) {
            (Value::Bytes(l), Value::Bytes(m)) => format!(" from byte {}", first_difference(l, m)),
            _ => String::new(),
        };
        return Some((l.name.clone(), note));
    }
    (local.len() != mount.len()).then(|| ("number of values".into(), String::new()))
}

/// The first difference of two trees that is not allowed.
#[must_use]
pub fn compare_trees(what: &str, at: usize, local: &Tree, mount: &Tree) -> Option<Difference> {
    let of = |field: String, note: String, local: String, mount: String| {
        Some(Difference { at, what: what.into(), field, local, mount, note })
    };
    for (path, l) in &local.entries {
        let Some(m) = mount.entries.get(path) else {
            return of(format!("{path} entry"), String::new(), "there".into(), "missing".into());
        };
        if let Some((field, note)) = fields(None, l, m) {
            let show = |fields: &[Field]| {
                fields.iter().find(|f| f.name == field).map_or_else(String::new, |f| short(&f.value))
            };
            let first = pair(l, m, &field);
            return of(format!("{path} {field}"), format!("{note}{first}"), show(l), show(m));
        }
    }
    let extra = mount.entries.keys().find(|path| !local.entries.contains_key(*path))?;
    of(format!("{extra} entry"), String::new(), "missing".into(), "there".into())
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() > 300 { format!("{}...", text.chars().take(300).collect::<String>()) } else { text }
}

/// For lists: the first element that is in one of them only.
fn pair(local: &[Field], mount: &[Field], name: &str) -> String {
    let list = |fields: &[Field]| match fields.iter().find(|f| f.name == name).map(|f| f.value.clone()) {
        Some(Value::List(items)) => items,
        _ => Vec::new(),
    };
    let (l, m) = (list(local), list(mount));
    let first = l.iter().find(|i| !m.contains(i)).map(|i| format!("; only local: {i}"));
    let second = m.iter().find(|i| !l.contains(i)).map(|i| format!("; only mount: {i}"));
    [first, second].into_iter().flatten().collect()
}
