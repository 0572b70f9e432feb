//! Clients that are sandboxes themselves: they reach others, and the API, by the names that everybody uses.
//!
//! What must stay true: a sandbox asks for nothing that its own policy does not open, under whatever name and with whatever
//! header it writes; and it is served by nothing that other clients have to share with it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::Request;
use tokio::sync::OwnedSemaphorePermit;

use crate::decide::{Decision, Head, effective_host, host_name};

/// Says what sandboxes may ask for.
pub trait Within: Send + Sync {
    /// A place for a connection of the sandbox with this address.
    fn place(&self, client: Ipv4Addr) -> Option<OwnedSemaphorePermit>;

    /// Whether it may ask for something by this name, which is as it was written.
    ///
    /// # Errors
    /// Why not, for the one who asks.
    fn judge(&self, client: Ipv4Addr, name: &str) -> Result<(), String>;
}

/// A sandbox that is a client.
pub(crate) struct Guest {
    within: Arc<dyn Within>,
    address: Ipv4Addr,
    _place: OwnedSemaphorePermit,
}

/// A request that a sandbox may not make.
pub(crate) struct Denied {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Guest {
    /// The sandbox at this address, if it may have one more connection.
    pub(crate) fn new(within: &Arc<dyn Within>, address: SocketAddr) -> Option<Arc<Self>> {
        let IpAddr::V4(address) = address.ip() else {
            return None;
        };
        Some(Arc::new(Self {
            within: Arc::clone(within),
            address,
            _place: within.place(address)?,
        }))
    }

    /// Judges a request by the name that it is written for, and by that of what it is about: headers may name another
    /// sandbox than the host does.
    pub(crate) fn judge<B>(
        &self,
        domain: Option<&str>,
        decision: &Decision,
        request: &Request<B>,
    ) -> Result<(), Denied> {
        let host = effective_host(Head::of(request)).and_then(host_name);
        // Of what cannot be read the decision is a refusal already.
        let host = host.unwrap_or_default().to_ascii_lowercase();
        let about = match (decision, domain) {
            (Decision::Sandbox { id, port }, Some(domain)) => Some(format!("{port}-{id}.{domain}")),
            _ => None,
        };
        for name in about.into_iter().chain([host]) {
            if let Err(reason) = self.within.judge(self.address, &name) {
                return Err(Denied { name, reason });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::decide::decide;

    const DOMAIN: Option<&str> = Some("box.test");

    /// A policy that names one address, and one place for a connection.
    struct OneName(Arc<Semaphore>);

    impl Within for OneName {
        fn place(&self, _: Ipv4Addr) -> Option<OwnedSemaphorePermit> {
            Arc::clone(&self.0).try_acquire_owned().ok()
        }

        fn judge(&self, _: Ipv4Addr, name: &str) -> Result<(), String> {
            match name {
                "3000-iabc.box.test" | "api.box.test" => Ok(()),
                _ => Err("closed".to_owned()),
            }
        }
    }

    #[test]
    fn what_a_request_is_about_counts_beside_its_host() {
        let within: Arc<dyn Within> = Arc::new(OneName(Arc::new(Semaphore::new(1))));
        let address = SocketAddr::from(([198, 18, 1, 1], 5));
        let guest = Guest::new(&within, address).unwrap();
        assert!(Guest::new(&within, address).is_none(), "no place is left");
        let refused = |host: &str, routed: Option<(&str, &str)>| {
            let mut request = Request::get("/").header("host", host);
            if let Some((id, port)) = routed {
                request = request.header("e2b-sandbox-id", id);
                request = request.header("e2b-sandbox-port", port);
            }
            let request = request.body(()).unwrap();
            let decision = decide(DOMAIN, Head::of(&request));
            let judged = guest.judge(DOMAIN, &decision, &request);
            judged.err().map(|denied| denied.name)
        };
        assert_eq!(refused("3000-iabc.box.test", None), None);
        assert_eq!(refused("3000-IABC.box.test:8443", None), None);
        assert_eq!(refused("api.box.test", None), None);
        for (host, routed, name) in [
            ("3001-iabc.box.test", None, "3001-iabc.box.test"),
            ("3000-iother.box.test", None, "3000-iother.box.test"),
            (
                "api.box.test",
                Some(("iother", "3000")),
                "3000-iother.box.test",
            ),
            (
                "api.box.test",
                Some(("iabc", "49983")),
                "49983-iabc.box.test",
            ),
            ("localhost", Some(("iabc", "3000")), "localhost"),
            ("127.0.0.1", None, "127.0.0.1"),
            ("3000-iabc.other.test", None, "3000-iabc.other.test"),
        ] {
            assert_eq!(
                refused(host, routed).as_deref(),
                Some(name),
                "{host} {routed:?}"
            );
        }
    }
}
