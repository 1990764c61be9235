//! The exact rules, one list for each topic.
//!
//! A rule is a pattern, a function that builds the equal expression (or declines), and examples: functions in `.tir` whose extents `{A}`, `{B}`, … the property
//! test draws at random. The test applies the rule to each and evaluates both sides under every plan, so adding a rule adds its test. Equality is over the
//! reals.

mod algebra;
mod choice;
mod composite;
mod contraction;
mod function;
mod motion;
mod movement;

use super::node::Build;
use super::pattern::Bind;
use egg::Id;

/// A rule.
pub struct Rule {
    /// `topic/what-happens`.
    pub name: &'static str,
    /// What it applies to.
    pub pattern: &'static str,
    /// The equal expression, or `None` where a condition does not hold.
    pub apply: fn(&mut Build, &Bind) -> Option<Id>,
    /// Where the property test tries it.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the property test alone"))]
    pub examples: &'static [&'static str],
}

/// All rules.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let topics = [
        algebra::RULES,
        function::RULES,
        contraction::RULES,
        composite::RULES,
        movement::RULES,
        motion::RULES,
        choice::RULES,
    ];
    topics.into_iter().flatten()
}

#[cfg(test)]
mod tests;
