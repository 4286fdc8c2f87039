//! Whether a Cluster takes a Topic: `topics.allowedNamespaces` and `topics.namePrefix` of the Cluster. Checked in each
//! pass, so that what is withdrawn is withdrawn. What a refused Topic is told is the same whether there is such a
//! Cluster or not: that would be knowledge of another tenant's namespace (CVE-2026-55225 of Strimzi).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use millrace_crds::{NamespacesFrom, TopicAccess};

use crate::names::ClusterKey;

/// What stands for the Topic's namespace in a prefix.
const NAMESPACE: &str = "{namespace}";

/// The labels of a Topic's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// These.
    Known(BTreeMap<String, String>),
    /// The operator has no right to read them.
    Forbidden,
}

/// Whether Topics of a namespace may be bound.
#[must_use]
pub fn admits(access: Option<&TopicAccess>, cluster: &str, topic: &str, labels: &Labels) -> bool {
    if cluster == topic {
        return true;
    }
    let Some(allowed) = access.and_then(|access| access.allowed_namespaces.as_ref()) else {
        return false;
    };
    match allowed.from {
        NamespacesFrom::Same => false,
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => match (labels, &allowed.selector) {
            (Labels::Known(labels), Some(selector)) => selects(selector, labels),
            // A selector that is not there selects nobody: to take it for an empty one would open the cluster to all.
            _ => false,
        },
    }
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

/// What a topic's name must begin with.
#[must_use]
pub fn prefix(access: Option<&TopicAccess>, namespace: &str) -> Option<String> {
    let prefix = access?.name_prefix.as_ref()?;
    Some(prefix.replace(NAMESPACE, namespace))
}

/// The one sentence for "there is none" and "it does not take this Topic". It depends on nothing but what the Topic's
/// own people know, and on which rights the operator has.
#[must_use]
pub fn refusal(cluster: &ClusterKey, namespace: &str, labels: Option<&Labels>) -> String {
    let hint = match labels {
        Some(Labels::Forbidden) => {
            " The operator may not read namespaces (get), so no Cluster that selects them by labels takes any."
        }
        _ => "",
    };
    format!(
        "Cluster {cluster} is not there, or takes no topic of this name from namespace {namespace} \
         (topics.allowedNamespaces and topics.namePrefix of the Cluster).{hint}"
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use millrace_crds::AllowedNamespaces;

    use super::*;

    fn labels(all: &[(&str, &str)]) -> Labels {
        Labels::Known(all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn access(from: NamespacesFrom, selector: Option<LabelSelector>) -> TopicAccess {
        TopicAccess {
            allowed_namespaces: Some(AllowedNamespaces { from, selector }),
            name_prefix: None,
        }
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect()),
            }]),
            match_labels: None,
        }
    }

    #[test]
    fn the_own_namespace_is_always_taken_and_others_only_if_the_cluster_says_so() {
        let none = labels(&[]);
        for access in [
            None,
            Some(TopicAccess::default()),
            Some(access(NamespacesFrom::Same, None)),
        ] {
            assert!(admits(access.as_ref(), "a", "a", &none));
            assert!(!admits(access.as_ref(), "a", "b", &none));
        }
        let all = access(NamespacesFrom::All, None);
        assert!(admits(Some(&all), "a", "b", &Labels::Forbidden));
    }

    #[test]
    fn a_selector_goes_by_the_labels_of_the_namespace() {
        let matches = |selector: LabelSelector, labels: &Labels| {
            admits(
                Some(&access(NamespacesFrom::Selector, Some(selector))),
                "a",
                "b",
                labels,
            )
        };
        let prod = labels(&[("env", "prod")]);
        let bare = labels(&[]);
        let by_label = LabelSelector {
            match_labels: Some([("env".to_owned(), "prod".to_owned())].into()),
            match_expressions: None,
        };
        assert!(matches(by_label.clone(), &prod));
        assert!(!matches(by_label.clone(), &bare));
        assert!(!matches(by_label, &Labels::Forbidden));
        assert!(
            matches(LabelSelector::default(), &bare),
            "an empty selector selects all"
        );
        for (operator, values, on_prod, on_bare) in [
            ("In", &["prod", "test"][..], true, false),
            ("In", &["test"], false, false),
            ("NotIn", &["test"], true, true),
            ("NotIn", &["prod"], false, true),
            ("Exists", &[], true, false),
            ("DoesNotExist", &[], false, true),
            ("Newer", &["prod"], false, false),
        ] {
            let selector = expression("env", operator, values);
            assert_eq!(matches(selector.clone(), &prod), on_prod, "{operator} {values:?}");
            assert_eq!(matches(selector, &bare), on_bare, "{operator} {values:?}");
        }
        let without = access(NamespacesFrom::Selector, None);
        assert!(!admits(Some(&without), "a", "b", &prod));
    }

    #[test]
    fn a_prefix_may_name_the_namespace() {
        let access = |text: &str| TopicAccess {
            allowed_namespaces: None,
            name_prefix: Some(text.to_owned()),
        };
        assert_eq!(prefix(Some(&access("x.{namespace}.")), "team"), Some("x.team.".into()));
        assert_eq!(prefix(Some(&access("plain")), "team"), Some("plain".into()));
        assert_eq!(prefix(Some(&TopicAccess::default()), "team"), None);
        assert_eq!(prefix(None, "team"), None);
    }

    #[test]
    fn a_refusal_says_which_right_is_missing_whatever_the_cluster_is() {
        let key = ClusterKey::new("a", "c");
        let known = refusal(&key, "b", Some(&labels(&[("x", "y")])));
        assert_eq!(known, refusal(&key, "b", None));
        assert!(!known.contains("may not read"), "{known}");
        assert!(refusal(&key, "b", Some(&Labels::Forbidden)).contains("may not read namespaces (get)"));
    }
}
