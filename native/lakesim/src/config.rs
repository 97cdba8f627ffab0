//! What may be changed while the server runs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::faults::{Faults, Plan, Rule};
use crate::latency::Latency;
use crate::link::LinkModel;
use crate::operation::Asked;

/// As the admin port shows and takes it.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    link: LinkModel,
    faults: Vec<Rule>,
    turn: u64,
}

/// The link and the faults in force.
pub(crate) struct Settings {
    pub(crate) link: LinkModel,
    faults: Faults,
    latency: Latency,
}

impl Settings {
    /// Nothing is modelled, nothing fails. *seed* decides what happens once it does.
    pub(crate) fn new(seed: u64) -> Self {
        let latency = Latency::new(seed);
        Self { link: LinkModel::default(), faults: Faults::new(seed), latency }
    }

    pub(crate) fn show(&self) -> Value {
        let (faults, turn) = (self.faults.rules(), self.latency.turn());
        let config = Config { link: self.link, faults, turn };
        serde_json::to_value(config).expect("plain data")
    }

    /// Changes what *patch* names: the named fields of `link`; the whole list of `faults`; the
    /// `turn`, which begins, whether it is another or not (`latency`). Unknown names and bad values
    /// are refused, and then nothing has changed.
    pub(crate) fn change(&mut self, patch: &[u8]) -> Result<(), String> {
        let patch =
            serde_json::from_slice::<Map<_, _>>(patch).map_err(|error| error.to_string())?;
        let (has_faults, has_turn) = (patch.contains_key("faults"), patch.contains_key("turn"));
        let mut merged = self.show();
        merge(&mut merged, Value::Object(patch));
        let config = serde_json::from_value::<Config>(merged).map_err(|error| error.to_string())?;
        config.link.check()?;
        config.faults.iter().try_for_each(Rule::check)?;
        self.link = config.link;
        if has_faults {
            self.faults.replace(config.faults);
        }
        if has_turn {
            self.latency.begin(config.turn);
        }
        Ok(())
    }

    /// How long a request waits for its first byte.
    pub(crate) fn first_byte(&mut self, asked: &Asked) -> std::time::Duration {
        self.link.first_byte(&mut self.latency.luck(asked))
    }

    pub(crate) fn plan(&mut self, asked: &Asked) -> Option<Plan> {
        self.faults.plan(asked)
    }

    pub(crate) fn refund(&mut self, plan: &Plan) {
        self.faults.refund(plan);
    }
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_it_names() {
        let mut settings = Settings::new(0);
        settings.change(br#"{"link": {"first_byte_median_ms": 20}}"#).unwrap();
        settings.change(br#"{"link": {"first_byte_p99_ms": 100}}"#).unwrap();
        settings.change(br#"{"faults": [{"kind": "stall", "fault_budget": 3}]}"#).unwrap();
        let shown = settings.show();
        assert_eq!(shown["link"]["first_byte_median_ms"], 20.0);
        assert_eq!(shown["link"]["first_byte_p99_ms"], 100.0);
        assert_eq!(shown["faults"][0]["fault_budget"], 3);
        settings.change(br#"{"faults": []}"#).unwrap();
        assert_eq!(settings.show()["faults"], Value::Array(Vec::new()));
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let mut settings = Settings::new(0);
        settings.change(br#"{"link": {"first_byte_median_ms": 20}}"#).unwrap();
        let before = settings.show();
        for patch in [
            r#"{"lnk": {}}"#,
            r#"{"link": {"first_byte_median_ms": 30, "bandwidth": 1}}"#,
            r#"{"link": {"first_byte_median_ms": -1}}"#,
            r#"{"link": {"first_byte_p99_ms": 10}}"#,
            r#"{"link": {"download_total_mb_s": "fast"}}"#,
            r#"{"faults": [{"kind": "nonsense"}]}"#,
            r#"{"faults": [{"kind": "stall", "rate": 2}]}"#,
            r#"{"faults": [{"kind": "stall", "unknown": 1}]}"#,
            r#"{"turn": -1}"#,
            "[]",
            "",
        ] {
            assert!(settings.change(patch.as_bytes()).is_err(), "{patch}");
            assert_eq!(settings.show(), before);
        }
    }
}
