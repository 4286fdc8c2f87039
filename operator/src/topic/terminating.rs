//! Whether the definition of Topics itself is going away. All Topics are deleted then, by the API server, and nobody
//! has asked for any topic's data to be deleted (Strimzi#4882: a failed Helm upgrade took the definitions, and every
//! cluster with them).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Resource as _, core::PartialObjectMeta};
use millrace_crds::Topic;

use crate::pass::is_not_found;

/// What is known of the definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// It stays.
    Stays,
    /// It is being deleted, or gone.
    Goes,
    /// The operator may not read it, and discovery says that it stays. Discovery goes by what each API server knows,
    /// which may be a moment old.
    SeemsToStay,
}

/// Asks the API server.
///
/// The definition itself is the better witness, read from the store: it is marked before the first Topic is. Without
/// the right to read it, discovery tells, for which everybody has the right: a definition that is being deleted has no
/// verb `create` there (apiextensions-apiserver, `customresource_discovery_controller.go`).
///
/// # Errors
/// The API server does not answer.
pub async fn definition(client: &Client) -> kube::Result<Definition> {
    let name = format!("{}.{}", Topic::plural(&()), Topic::group(&()));
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    match definitions.get(&name).await {
        Ok(found) if found.metadata.deletion_timestamp.is_some() => return Ok(Definition::Goes),
        Ok(_) => return Ok(Definition::Stays),
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Definition::Goes),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {}
        Err(error) => return Err(error),
    }
    let version = Topic::api_version(&());
    let served = match client.list_api_group_resources(&version).await {
        Ok(resources) => resources
            .resources
            .iter()
            .any(|resource| resource.name == Topic::plural(&()) && resource.verbs.iter().any(|verb| verb == "create")),
        Err(error) if is_not_found(&error) => false,
        Err(error) => return Err(error),
    };
    Ok(if served {
        Definition::SeemsToStay
    } else {
        Definition::Goes
    })
}
