//! The codec between server and jail. The jail runs as root and reads what comes through a socket.

use std::fmt::{Debug, Display};

use soulbox_launch_plan::{LaunchPlan, Order, Reply, SlotPlan, validate};

/// Input: which of the four, then its bytes.
pub(crate) fn plans(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            if let Ok(plan) = SlotPlan::decode(bytes) {
                comes_back(&plan, SlotPlan::encode, SlotPlan::decode);
                printable(&plan);
            }
        }
        1 => {
            if let Ok(plan) = LaunchPlan::decode(bytes) {
                comes_back(&plan, LaunchPlan::encode, LaunchPlan::decode);
                printable(&plan);
                if validate(&plan).is_ok() {
                    let last = plan.steps.last().map(soulbox_launch_plan::LaunchStep::name);
                    assert!(
                        matches!(last, Some("exec-envd" | "exec-restorer")),
                        "{last:?}"
                    );
                }
            }
        }
        2 => {
            if let Ok(order) = Order::decode(bytes) {
                comes_back(&order, Order::encode, Order::decode);
            }
        }
        _ => {
            if let Ok(reply) = Reply::decode(bytes) {
                comes_back(&reply, Reply::encode, Reply::decode);
            }
        }
    }
}

fn comes_back<T: PartialEq + Debug, E: Debug>(
    value: &T,
    encode: impl Fn(&T) -> Result<Vec<u8>, E>,
    decode: impl Fn(&[u8]) -> Result<T, E>,
) {
    let bytes = encode(value).expect("it was in memory already");
    assert_eq!(&decode(&bytes).expect("our own bytes"), value);
}

fn printable(plan: &impl Display) {
    assert_eq!(plan.to_string(), plan.to_string());
}
