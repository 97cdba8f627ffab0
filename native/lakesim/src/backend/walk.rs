//! Walking keys in order, folded at a delimiter: what all listings share.

use std::collections::BTreeMap;
use std::ops::Bound;

/// One line of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a, T> {
    Key(&'a String, &'a T),
    /// Everything that begins so, up to and with the delimiter.
    Prefix(String),
}

/// Which keys, and how they fold.
pub(super) struct Walk<'a> {
    pub(super) prefix: &'a str,
    /// Not empty.
    pub(super) delimiter: Option<&'a str>,
    /// Only what comes after this key; if it is a prefix that folded, after all that it stands for.
    pub(super) after: &'a str,
}

impl Walk<'_> {
    /// The first items, at most *limit*, and whether there are more.
    pub(super) fn page<'t, T>(
        &self,
        entries: &'t BTreeMap<String, T>,
        limit: usize,
    ) -> (Vec<Item<'t, T>>, bool) {
        let mut items = Vec::new();
        let mut from = if self.after < self.prefix {
            Bound::Included(self.prefix.to_owned())
        } else {
            Bound::Excluded(self.after.to_owned())
        };
        'seek: loop {
            for (key, value) in entries.range((from, Bound::Unbounded)) {
                if !key.starts_with(self.prefix) {
                    break 'seek;
                }
                let folded = self.fold(key);
                if folded.is_none_or(|prefix| prefix > self.after) && items.len() == limit {
                    return (items, limit > 0);
                }
                match folded {
                    None => items.push(Item::Key(key, value)),
                    Some(prefix) => {
                        if prefix > self.after {
                            items.push(Item::Prefix(prefix.to_owned()));
                        }
                        match after_all_with(prefix) {
                            None => break 'seek,
                            Some(next) => from = Bound::Included(next),
                        }
                        continue 'seek;
                    }
                }
            }
            break;
        }
        (items, false)
    }

    fn fold<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter?;
        let at = key[self.prefix.len()..].find(delimiter)?;
        Some(&key[..self.prefix.len() + at + delimiter.len()])
    }
}

/// The smallest string greater than all that begin with *prefix*.
fn after_all_with(prefix: &str) -> Option<String> {
    let mut next = prefix.to_owned();
    while let Some(last) = next.pop() {
        // The step over the surrogates, which are not characters, is the only gap.
        let following =
            if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(following) = following {
            next.push(following);
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 12] = [
        "/lead",
        "a",
        "a-b/x",
        "a.txt",
        "a//b",
        "a/b",
        "a/c/d",
        "a0",
        "b/",
        "b/\u{10ffff}/x",
        "\u{d7ff}/x",
        "\u{10ffff}/y",
    ];

    /// The same, worked out from the definition: fold every key, sort, drop doubles.
    fn by_definition(prefix: &str, delimiter: Option<&str>, after: &str) -> Vec<String> {
        let mut all = KEYS
            .iter()
            .filter(|key| key.starts_with(prefix))
            .map(|key| match delimiter.and_then(|d| key[prefix.len()..].find(d)) {
                Some(at) => key[..=prefix.len() + at].to_owned(),
                None => (*key).to_owned(),
            })
            .filter(|item| item.as_str() > after)
            .collect::<Vec<_>>();
        all.sort();
        all.dedup();
        all
    }

    #[test]
    fn pages_of_any_size_give_what_the_definition_gives() {
        let entries = KEYS.iter().map(|key| ((*key).to_owned(), 0)).collect::<BTreeMap<_, _>>();
        for prefix in ["", "a", "a/", "b/", "/", "zz"] {
            for delimiter in [None, Some("/"), Some("b")] {
                for limit in 1..=13 {
                    let (mut found, mut after, mut more) = (Vec::new(), String::new(), true);
                    while more {
                        let walk = Walk { prefix, delimiter, after: &after };
                        let (items, left) = walk.page(&entries, limit);
                        assert!(items.len() == limit || !left);
                        found.extend(items.into_iter().map(|item| match item {
                            Item::Key(key, _) => key.clone(),
                            Item::Prefix(folded) => folded,
                        }));
                        after = found.last().cloned().unwrap_or_default();
                        more = left;
                    }
                    assert_eq!(found, by_definition(prefix, delimiter, ""), "{prefix} {limit}");
                }
                for after in KEYS {
                    let (items, more) = Walk { prefix, delimiter, after }.page(&entries, 100);
                    assert_eq!(items.len(), by_definition(prefix, delimiter, after).len());
                    assert!(!more);
                }
            }
        }
    }

    #[test]
    fn no_keys_asked_for_is_not_more_to_come() {
        let entries = BTreeMap::from([("a".to_owned(), 0)]);
        let walk = Walk { prefix: "", delimiter: None, after: "" };
        assert_eq!(walk.page(&entries, 0), (vec![], false));
    }
}
