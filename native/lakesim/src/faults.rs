//! Which requests are treated badly, and how.
//!
//! A list of rules. Every rule that a request matches draws from a random sequence of its own: which
//! of its matching requests a rule strikes is a function of the seed and of the rule's place in the
//! list, whatever else goes on. The first rule that strikes has the request.

use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::operation::Asked;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// 503 `SlowDown`; the request has no effect.
    SlowDown,
    /// 500 `InternalError`; the request has no effect.
    InternalError,
    /// The connection is reset; the request has no effect.
    ResetBefore,
    /// The connection is reset once the request has taken effect.
    ResetAfter,
    /// The body ends early and the connection closes.
    Truncate,
    /// The body stops for `stall_ms`, then goes on.
    Stall,
    /// The body comes at `bytes_per_s`.
    Slow,
    /// One byte of the body has one bit changed.
    FlipByte,
    /// The body ends early, and `Content-Length` says that this is all.
    ShortBody,
    /// The `ETag` header is another.
    WrongEtag,
    /// A range is answered with 200 and everything.
    IgnoreRange,
    /// `If-Match` and its relatives are not looked at.
    IgnoreConditions,
}

/// A fault, and the requests that may get it. Of the filters that are given all must match.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    kind: FaultKind,
    /// The share of matching requests that get it.
    #[serde(default = "always")]
    rate: f64,
    /// HTTP methods.
    #[serde(default)]
    methods: Vec<String>,
    /// Names in the S3 API reference.
    #[serde(default)]
    operations: Vec<String>,
    #[serde(default)]
    key_contains: String,
    /// How many faults are left to make; without one, no end.
    fault_budget: Option<u64>,
    /// Where in the body it happens; without one, anywhere.
    after_bytes: Option<u64>,
    #[serde(default = "a_minute")]
    stall_ms: u64,
    #[serde(default = "a_kilobyte")]
    bytes_per_s: u64,
}

fn always() -> f64 {
    1.0
}

fn a_minute() -> u64 {
    60_000
}

fn a_kilobyte() -> u64 {
    1024
}

impl Rule {
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.rate) {
            return Err("a rate is between 0 and 1".into());
        }
        if self.bytes_per_s == 0 {
            return Err("bytes_per_s is at least 1".into());
        }
        Ok(())
    }

    fn matches(&self, asked: &Asked) -> bool {
        let among =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
        let applies = match self.kind {
            FaultKind::IgnoreRange => asked.operation == "GetObject" && asked.range.is_some(),
            FaultKind::IgnoreConditions => asked.conditional,
            _ => true,
        };
        applies
            && among(&self.methods, asked.method)
            && among(&self.operations, asked.operation)
            && asked.key.contains(&self.key_contains)
    }
}

/// A fault that is to happen to one request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: FaultKind,
    pub(crate) stall: Duration,
    pub(crate) bytes_per_s: u64,
    after_bytes: Option<u64>,
    /// In [0, 1).
    place: f64,
    origin: Origin,
}

/// The rule that a plan comes from: which list, which place in it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Origin {
    list: u64,
    index: usize,
}

impl Plan {
    /// Where in a body of *length* bytes it happens: before one of its bytes. None if the body is
    /// too short for that.
    pub(crate) fn place(&self, length: u64) -> Option<u64> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let anywhere = (self.place * length as f64) as u64;
        Some(self.after_bytes.unwrap_or(anywhere)).filter(|at| *at < length)
    }
}

/// The rules in force and where their sequences are.
pub(crate) struct Faults {
    seed: u64,
    list: u64,
    rules: Vec<(Rule, Rng)>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, list: 0, rules: Vec::new() }
    }

    /// Puts other rules in force; all sequences begin again.
    pub(crate) fn replace(&mut self, rules: Vec<Rule>) {
        self.list += 1;
        let rng = |index: usize| Rng::with_seed(self.seed.wrapping_add(index as u64));
        self.rules = rules.into_iter().enumerate().map(|(n, rule)| (rule, rng(n))).collect();
    }

    /// The rules, with what is left of their budgets.
    pub(crate) fn rules(&self) -> Vec<Rule> {
        self.rules.iter().map(|(rule, _)| rule.clone()).collect()
    }

    /// What is to happen to a request.
    pub(crate) fn plan(&mut self, asked: &Asked) -> Option<Plan> {
        let mut struck = None;
        for (index, (rule, rng)) in self.rules.iter_mut().enumerate() {
            if !rule.matches(asked) {
                continue;
            }
            let (strikes, place) = (rng.f64() < rule.rate, rng.f64());
            if strikes && struck.is_none() && rule.fault_budget != Some(0) {
                rule.fault_budget = rule.fault_budget.map(|left| left - 1);
                struck = Some(Plan {
                    kind: rule.kind,
                    stall: Duration::from_millis(rule.stall_ms),
                    bytes_per_s: rule.bytes_per_s,
                    after_bytes: rule.after_bytes,
                    place,
                    origin: Origin { list: self.list, index },
                });
            }
        }
        struck
    }

    /// The answer gave no opportunity for that fault: the rule may make another.
    pub(crate) fn refund(&mut self, plan: &Plan) {
        if plan.origin.list == self.list {
            let budget = &mut self.rules[plan.origin.index].0.fault_budget;
            *budget = budget.map(|left| left + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::tests::asked;

    fn faults(seed: u64, rules: &str) -> Faults {
        let mut faults = Faults::new(seed);
        faults.replace(serde_json::from_str(rules).unwrap());
        faults
    }

    fn kinds(faults: &mut Faults, uri: &str, count: usize) -> Vec<Option<FaultKind>> {
        let request = asked("GET", uri, &[]);
        (0..count).map(|_| faults.plan(&request).map(|plan| plan.kind)).collect()
    }

    #[test]
    fn a_rule_strikes_the_same_requests_whatever_comes_between() {
        let rules = r#"[{"kind": "slow_down", "rate": 0.3, "key_contains": "a"}]"#;
        let alone = kinds(&mut faults(5, rules), "/b/a", 200);
        let mut disturbed = faults(5, rules);
        let mut found = Vec::new();
        for _ in 0..200 {
            kinds(&mut disturbed, "/b/other", 3);
            found.extend(kinds(&mut disturbed, "/b/a", 1));
        }
        assert_eq!(found, alone);
        assert_ne!(kinds(&mut faults(6, rules), "/b/a", 200), alone);
        let struck = alone.iter().flatten().count();
        assert!((30..90).contains(&struck), "{struck} of 200");
    }

    #[test]
    fn the_first_rule_that_strikes_has_the_request() {
        let mut two = faults(
            0,
            r#"[{"kind": "slow_down", "fault_budget": 2}, {"kind": "stall", "fault_budget": 1}]"#,
        );
        let expected =
            [Some(FaultKind::SlowDown), Some(FaultKind::SlowDown), Some(FaultKind::Stall), None];
        assert_eq!(kinds(&mut two, "/b/k", 4), expected);
    }

    #[test]
    fn a_refund_is_for_the_list_that_was_charged() {
        let rules = r#"[{"kind": "truncate", "fault_budget": 1}]"#;
        let mut faults = faults(0, rules);
        let request = asked("GET", "/b/k", &[]);
        let plan = faults.plan(&request).unwrap();
        assert!(faults.plan(&request).is_none());
        faults.refund(&plan);
        let plan = faults.plan(&request).unwrap();
        faults.replace(serde_json::from_str(rules).unwrap());
        faults.refund(&plan);
        assert_eq!(faults.rules()[0].fault_budget, Some(1));
    }

    #[test]
    fn filters() {
        let strikes = |rule: &str, request: Asked| {
            faults(0, &format!(r#"[{{"kind": {rule}}}]"#)).plan(&request).is_some()
        };
        let get = |headers: &[_]| asked("GET", "/b/some/key", headers);
        assert!(strikes(r#""stall", "methods": ["PUT", "GET"]"#, get(&[])));
        assert!(!strikes(r#""stall", "methods": ["PUT"]"#, get(&[])));
        assert!(strikes(r#""stall", "operations": ["GetObject"]"#, get(&[])));
        assert!(!strikes(r#""stall", "operations": ["HeadObject"]"#, get(&[])));
        assert!(!strikes(r#""stall", "key_contains": "other""#, get(&[])));
        assert!(!strikes(r#""ignore_range""#, get(&[])));
        assert!(strikes(r#""ignore_range""#, get(&[("range", "bytes=0-1")])));
        assert!(!strikes(r#""ignore_conditions""#, get(&[])));
        assert!(strikes(r#""ignore_conditions""#, get(&[("if-match", "\"x\"")])));
    }

    #[test]
    fn places() {
        let place = |after: &str, length| {
            let rule = format!(r#"[{{"kind": "truncate"{after}}}]"#);
            faults(1, &rule).plan(&asked("GET", "/b/k", &[])).unwrap().place(length)
        };
        assert_eq!(place(r#", "after_bytes": 9"#, 10), Some(9));
        assert_eq!(place(r#", "after_bytes": 10"#, 10), None);
        assert_eq!(place("", 0), None);
        assert_eq!(place("", 1), Some(0));
        assert!(place("", 1000).unwrap() < 1000);
    }
}
