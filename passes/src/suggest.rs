//! "Did you mean": the nearest of some names.

/// Help for a name that is none of `known`: the nearest one, if it is near, and the others.
pub fn did_you_mean(name: &str, known: &[&str]) -> String {
    match near(name, known) {
        Some(k) => format!("did you mean `{k}`?"),
        None if known.is_empty() => "there are none".into(),
        None => format!("known are {}", known.join(", ")),
    }
}

/// The nearest of `known`, if it is near.
pub fn near<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (d, k) = known.iter().map(|k| (distance(name, k), *k)).min()?;
    (d <= 1 + name.chars().count() / 4).then_some(k)
}

/// Edits (insert, delete, replace, swap neighbours) that turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut d = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            d[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = d[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replace.min(d[i - 1][j] + 1).min(d[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(d[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    d[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn near_names_are_suggested() {
        let known = ["normalize", "quantize", "precision"];
        assert_eq!(super::did_you_mean("quantise", &known), "did you mean `quantize`?");
        assert_eq!(super::did_you_mean("nromalize", &known), "did you mean `normalize`?");
        assert_eq!(super::did_you_mean("prune", &known), "known are normalize, quantize, precision");
    }
}
