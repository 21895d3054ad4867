//! Keys: the tenant first, so that no tenant is ever served another's object (G4).

use std::sync::Arc;

/// What an object is cached under. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey {
    tenant: Arc<str>,
    name: Arc<str>,
}

impl AgentKey {
    /// Makes the key of a tenant's object.
    #[must_use]
    pub fn new(tenant: &str, name: &str) -> Self {
        Self {
            tenant: Arc::from(tenant),
            name: Arc::from(name),
        }
    }

    /// Returns the tenant.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Returns the name of the object within its tenant.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
