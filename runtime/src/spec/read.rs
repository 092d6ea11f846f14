//! From JSON to the spec's types, with the place of what does not fit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::path::PathBuf;

use super::json::Json;
use crate::error::Error;

/// Where a value stands in the document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    above: Option<&'a At<'a>>,
    step: Way<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Way<'a> {
    Key(&'a str),
    /// A key that somebody chose, in a map.
    Name(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The top, by a name; empty for the document itself.
    pub(crate) const fn top(name: &'a str) -> Self {
        Self { above: None, step: Way::Key(name) }
    }

    pub(crate) fn key(&'a self, key: &'a str) -> At<'a> {
        At { above: Some(self), step: Way::Key(key) }
    }

    fn name(&'a self, name: &'a str) -> At<'a> {
        At { above: Some(self), step: Way::Name(name) }
    }

    fn index(&'a self, index: usize) -> At<'a> {
        At { above: Some(self), step: Way::Index(index) }
    }

    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Error {
        let field = self.to_string();
        let field = if field.is_empty() { "the document".to_owned() } else { field };
        Error::Spec { field, reason: reason.into() }
    }

    fn not_a(&self, what: &str, json: &Json<'_>) -> Error {
        let is = match json {
            Json::Null => "null".to_owned(),
            Json::Bool(value) => value.to_string(),
            Json::Number(number) => (*number).to_owned(),
            Json::Text(text) => format!("{text:?}"),
            Json::List(_) => "a list".to_owned(),
            Json::Object(_) => "an object".to_owned(),
        };
        self.refuse(format!("{is} is not {what}"))
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_first = true;
        if let Some(above) = self.above {
            above.fmt(f)?;
            is_first = above.above.is_none() && matches!(above.step, Way::Key(""));
        }
        match self.step {
            Way::Key(key) if is_first => f.write_str(key),
            Way::Key(key) => write!(f, ".{key}"),
            Way::Name(name) => write!(f, "[{name:?}]"),
            Way::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// What can be read from JSON.
pub(crate) trait Read: Sized {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error>;
}

/// The fields of an object.
pub(crate) struct Fields<'j, 't>(&'j [(std::borrow::Cow<'t, str>, Json<'t>)]);

impl<'j, 't> Fields<'j, 't> {
    pub(crate) fn of(json: &'j Json<'t>, at: &At<'_>) -> Result<Self, Error> {
        match json {
            Json::Object(all) => Ok(Self(all)),
            other => Err(at.not_a("an object", other)),
        }
    }

    fn get(&self, key: &str) -> Option<&'j Json<'t>> {
        // Go's reader, on which specs are tried, does not mind the case of a name.
        let exact = self.0.iter().find(|(name, _)| name == key);
        let found =
            exact.or_else(|| self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)));
        let found = found.map(|(_, json)| json);
        // Go writes null for lists and maps that are not there.
        found.filter(|json| **json != Json::Null)
    }

    pub(crate) fn optional<T: Read>(&self, key: &str, at: &At<'_>) -> Result<Option<T>, Error> {
        self.get(key).map(|json| T::read(json, &at.key(key))).transpose()
    }

    pub(crate) fn required<T: Read>(&self, key: &str, at: &At<'_>) -> Result<T, Error> {
        self.optional(key, at)?.ok_or_else(|| at.key(key).refuse("is needed"))
    }

    pub(crate) fn or_default<T: Read + Default>(&self, key: &str, at: &At<'_>) -> Result<T, Error> {
        Ok(self.optional(key, at)?.unwrap_or_default())
    }
}

impl Read for bool {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        match json {
            Json::Bool(value) => Ok(*value),
            other => Err(at.not_a("true or false", other)),
        }
    }
}

impl Read for String {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        match json {
            Json::Text(text) => Ok(text.clone().into_owned()),
            other => Err(at.not_a("a string", other)),
        }
    }
}

impl Read for PathBuf {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        let text = String::read(json, at)?;
        match text.contains('\0') {
            false => Ok(PathBuf::from(text)),
            true => Err(at.refuse("has a NUL byte in it")),
        }
    }
}

macro_rules! whole_numbers {
    ($($kind:ty),*) => {$(
        impl Read for $kind {
            fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
                let what = || format!("a whole number from {} to {}", <$kind>::MIN, <$kind>::MAX);
                match json {
                    Json::Number(text) => text.parse().map_err(|_| at.not_a(&what(), json)),
                    other => Err(at.not_a(&what(), other)),
                }
            }
        }
    )*};
}

whole_numbers!(u16, u32, u64, usize, i32, i64);

impl<T: Read> Read for Vec<T> {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        match json {
            Json::List(all) => {
                all.iter().enumerate().map(|(index, one)| T::read(one, &at.index(index))).collect()
            }
            other => Err(at.not_a("a list", other)),
        }
    }
}

impl<T: Read + Eq + Hash> Read for HashSet<T> {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        Ok(Vec::<T>::read(json, at)?.into_iter().collect())
    }
}

impl<T: Read> Read for HashMap<String, T> {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        let Fields(all) = Fields::of(json, at)?;
        all.iter()
            .map(|(name, one)| Ok((name.to_string(), T::read(one, &at.name(name))?)))
            .collect()
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        Ok(HashMap::<String, T>::read(json, at)?.into_iter().collect())
    }
}

/// A document as a type; errors name the field, `name` being the document's own.
pub(crate) fn document<T: Read>(bytes: &[u8], name: &str) -> Result<T, Error> {
    let at = At::top(name);
    let json = super::json::parse(bytes).map_err(|text| at.refuse(text))?;
    T::read(&json, &at)
}

/// A word of a closed list.
pub(crate) fn word<T: Copy>(
    json: &Json<'_>,
    at: &At<'_>,
    what: &str,
    words: &[(&str, T)],
) -> Result<T, Error> {
    let Json::Text(text) = json else { return Err(at.not_a(what, json)) };
    match words.iter().find(|(word, _)| word == text) {
        Some((_, value)) => Ok(*value),
        None => Err(at.refuse(format!("{text:?} is not {what}"))),
    }
}
