//! The known name that is most like a mistyped one.

/// The name with the least edit distance to `word`, if that is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near_enough = (word.len() / 3).max(2);
    names.map(|name| (distance(word, name), name)).min().filter(|(d, _)| *d <= near_enough).map(|(_, name)| name)
}

/// How many letters must be inserted, deleted or replaced to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    // The row of the table for the part of `a` read so far; an entry for each part of `b` that it could have become.
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = std::mem::replace(&mut row[0], left);
        for (cell, to) in row[1..].iter_mut().zip(b.chars()) {
            let above = std::mem::replace(cell, 0);
            left = (diagonal + usize::from(from != to)).min(above + 1).min(left + 1);
            *cell = left;
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn counts_edits() {
        assert_eq!(distance("", "port"), 4);
        assert_eq!(distance("port", "port"), 0);
        assert_eq!(distance("prot", "port"), 2);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn suggests_only_what_is_near() {
        let names = ["server_name", "port"];
        assert_eq!(nearest("servername", names.into_iter()), Some("server_name"));
        assert_eq!(nearest("frobnicate", names.into_iter()), None);
    }
}
