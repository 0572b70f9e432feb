//! Changes of what a running sandbox may reach.

use serde_json::{Map, Value};
use soulbox_types::NetworkMode;

/// What a sandbox may reach from now on.
#[derive(Debug, Clone)]
pub struct NetworkChange {
    /// All of it.
    pub network: NetworkMode,
    /// As the caller gave it, for the record: the fields of traffic out, and no others.
    pub egress: Map<String, Value>,
    /// As the caller gave it.
    pub allow_internet_access: Option<bool>,
}

/// Fields of the record that are about traffic in, which a change leaves as they are.
const INGRESS: [&str; 3] = ["allowPublicTraffic", "maskRequestHost", "httpsPorts"];

impl NetworkChange {
    /// What is to be recorded.
    pub(crate) fn with_ingress_of(&self, before: Option<Value>) -> Value {
        let mut after = self.egress.clone();
        if let Some(Value::Object(mut before)) = before {
            for name in INGRESS {
                after.extend(before.remove_entry(name));
            }
        }
        after.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn traffic_out_is_replaced_and_traffic_in_stays() {
        let before = json!({"allowOut": ["1.1.1.1"], "rules": {}, "maskRequestHost": "x", "httpsPorts": [1]});
        let Value::Object(egress) = json!({"denyOut": ["2.2.2.2"]}) else {
            panic!("no object");
        };
        let change = NetworkChange {
            network: NetworkMode::Internet,
            egress,
            allow_internet_access: None,
        };
        assert_eq!(
            change.with_ingress_of(Some(before)),
            json!({"denyOut": ["2.2.2.2"], "maskRequestHost": "x", "httpsPorts": [1]})
        );
        assert_eq!(
            change.with_ingress_of(None),
            json!({"denyOut": ["2.2.2.2"]})
        );
    }
}
