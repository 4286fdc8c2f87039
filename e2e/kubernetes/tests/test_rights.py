"""The operator has each right that it needs, and none that it does not use: by what all other tests had it do."""

from __future__ import annotations

import os

import pytest
from kube_machine import Kubectl, Machine
from product import Operator, rights
from product.rights import Right

# It comes last (conftest.py) and judges by what was done before. Without these too little was.
_BEFORE = {
    "test_from_install_to_the_first_record",
    "test_an_uninstalled_chart_leaves_clusters_and_their_data",
    "test_a_setting_rolls_all_brokers_one_by_one",
    "test_one_broker_more_and_one_fewer",
    "test_a_cluster_on_a_single_node",
    "test_a_topic_has_one_owner",
    "test_a_namespace_is_let_in_by_its_label_and_out_by_it",
}

# Rights that no request shows, and why they are needed all the same.
_UNSEEN = {
    Right("millrace.dev", "clusters/finalizers", "update"): (
        "asked for by the admission plugin OwnerReferencesPermissionEnforcement, which this Kubernetes has, where the "
        "operator says of what it makes that its Cluster is to outlive it (blockOwnerDeletion)"
    ),
}


def test_the_operator_has_the_rights_that_it_uses(
    request: pytest.FixtureRequest, machine: Machine, operator: Operator, cluster_kubectl: Kubectl
) -> None:
    ran = {item.originalname for item in request.session.items}
    if missing := _BEFORE - ran:
        reason = f"it judges by what all tests had the operator do, and these are not among them: {missing}"
        if os.environ.get("MILLRACE_E2E_REQUIRE_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    entries = operator.requests(operator.since)
    lacking = rights.lacking(entry for entry in entries if not operator.is_uninstalled(entry))
    assert not lacking, f"it lacks rights: {sorted(lacking)}"
    granted, used = rights.granted(cluster_kubectl, operator.namespace, operator.name), rights.used(entries)
    assert used <= granted, f"not by its roles: {sorted(used - granted)}"
    unseen = set(_UNSEEN)
    assert unseen <= granted, f"it does not have what it is said to need: {sorted(unseen - granted)}"
    superfluous = granted - used - unseen
    assert not superfluous, f"it has rights that it does not use: {sorted(superfluous)}"
    assert not unseen & used, f"these are seen after all: {sorted(unseen & used)}"
