//! An API server in memory: enough of it for Topics, Clusters, namespaces and events. Versions, conflicts, finalizers
//! and the status subresource work as in Kubernetes; schemas and rights do not.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// `resource/namespace/name`; cluster-scoped objects have no namespace.
type Key = (String, String, String);

/// What happens to a request in place of the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is never carried out.
    Unsent,
    /// It is carried out, and the answer is lost.
    Unanswered,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<Key, Value>,
    version: u64,
    uids: u64,
    /// Version, type, key and object of each change.
    changes: Vec<(u64, &'static str, Key, Value)>,
    /// Method and path of each request.
    requests: Vec<(Method, String)>,
    /// Paths, by their beginnings, that are forbidden.
    forbidden: Vec<String>,
    /// The request with this number, from now on, fails.
    fault: Option<(usize, Fault)>,
    /// Discovery says that Topics can be created.
    creatable: bool,
}

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct ApiServer {
    store: Arc<Mutex<Store>>,
    changed: Arc<Notify>,
    slow: Arc<AtomicU64>,
}

/// An answer that is no success.
struct Refused(StatusCode, &'static str, String);

impl ApiServer {
    pub fn new() -> Self {
        let store = Store {
            creatable: true,
            ..Store::default()
        };
        Self {
            store: Arc::new(Mutex::new(store)),
            changed: Arc::default(),
            slow: Arc::default(),
        }
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::new(Service(self.clone()), "default")
    }

    /// What a user applies: made, or its spec, labels and annotations replaced.
    pub fn apply(&self, resource: &str, mut object: Value) {
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
        let key = (resource.to_owned(), text("namespace"), text("name"));
        let mut store = self.store.lock();
        if let Some(mut known) = store.objects.get(&key).cloned() {
            for (name, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
                known["metadata"]["annotations"][name] = value.clone();
            }
            if let Some(labels) = object["metadata"].get("labels") {
                known["metadata"]["labels"] = labels.clone();
            }
            if known["spec"] != object["spec"] {
                known["spec"] = object["spec"].clone();
                let generation = known["metadata"]["generation"].as_i64().unwrap_or(0);
                known["metadata"]["generation"] = (generation + 1).into();
            }
            if let Some(status) = object.get("status") {
                known["status"] = status.clone();
            }
            store.put(key, known);
        } else {
            store.uids += 1;
            object["metadata"]["uid"] = format!("uid-{}", store.uids).into();
            object["metadata"]["generation"] = 1.into();
            object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
            store.put(key, object);
        }
        drop(store);
        self.changed.notify_waiters();
    }

    /// What a user deletes.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut store = self.store.lock();
        let Some(mut known) = store.objects.get(&key).cloned() else {
            panic!("there is no {key:?}");
        };
        if known["metadata"]["deletionTimestamp"].is_null() {
            known["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
            let generation = known["metadata"]["generation"].as_i64().unwrap_or(0);
            known["metadata"]["generation"] = (generation + 1).into();
        }
        store.put(key, known);
        drop(store);
        self.changed.notify_waiters();
    }

    /// Takes an object away, whatever holds it: a forced deletion, or a loss of the store.
    pub fn lose(&self, resource: &str, namespace: &str, name: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.store.lock().remove(&key);
        self.changed.notify_waiters();
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.store.lock().objects.get(&key).cloned()
    }

    /// Reasons and notes of all events about an object.
    pub fn events(&self, name: &str) -> Vec<(String, String)> {
        let store = self.store.lock();
        let events = store.objects.iter().filter(|((resource, ..), _)| resource == "events");
        events
            .filter(|(_, event)| event["regarding"]["name"] == name)
            .map(|(_, event)| {
                let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                (text("reason"), text("note"))
            })
            .collect()
    }

    /// Requests since the last call.
    pub fn take_requests(&self) -> Vec<(Method, String)> {
        std::mem::take(&mut self.store.lock().requests)
    }

    pub fn forbid(&self, path: &str) {
        self.store.lock().forbidden.push(path.to_owned());
    }

    /// Lets a request fail: the next one is 0.
    pub fn fail(&self, number: usize, fault: Fault) {
        self.store.lock().fault = Some((number, fault));
    }

    /// Whether a fault that was to come has not come.
    pub fn take_fault(&self) -> bool {
        self.store.lock().fault.take().is_some()
    }

    pub fn stop_creation_of_topics(&self) {
        self.store.lock().creatable = false;
    }

    /// Each answer takes so long.
    pub fn answer_after(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap();
        self.slow.store(micros, Ordering::Relaxed);
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let slow = self.slow.load(Ordering::Relaxed);
        if slow > 0 {
            tokio::time::sleep(Duration::from_micros(slow)).await;
        }
        let (parts, body) = request.into_parts();
        let body: Bytes = axum::body::to_bytes(Body::new(body), 1 << 20).await.unwrap();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let only_metadata = parts
            .headers
            .get(http::header::ACCEPT)
            .is_some_and(|accept| accept.to_str().unwrap().contains("PartialObjectMetadata"));
        let mut store = self.store.lock();
        store.requests.push((parts.method.clone(), path.clone()));
        let fault = match store.fault {
            Some((0, fault)) => {
                store.fault = None;
                Some(fault)
            }
            Some((left, fault)) => {
                store.fault = Some((left - 1, fault));
                None
            }
            None => None,
        };
        if fault == Some(Fault::Unsent) {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "it was not sent");
        }
        if store.forbidden.iter().any(|forbidden| path.starts_with(forbidden)) {
            let words = format!("{path} is forbidden: User \"operator\" cannot do this");
            return error(StatusCode::FORBIDDEN, "Forbidden", &words);
        }
        if query.get("watch").is_some_and(|watch| watch == "true") {
            let since = query.get("resourceVersion").and_then(|version| version.parse().ok());
            drop(store);
            return self.watch(&path, since.unwrap_or(0), only_metadata);
        }
        let answered = store.carry_out(&parts.method, &path, &body);
        drop(store);
        if parts.method != Method::GET {
            self.changed.notify_waiters();
        }
        if fault == Some(Fault::Unanswered) {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "its answer is lost");
        }
        match answered {
            Ok(value) => {
                let value = if only_metadata { metadata_of(&value) } else { value };
                Response::new(Body::from(value.to_string()))
            }
            Err(Refused(code, reason, message)) => error(code, reason, &message),
        }
    }

    fn watch(&self, path: &str, since: u64, only_metadata: bool) -> Response<Body> {
        let (resource, namespace, _, _) = parse(path);
        let state = (self.clone(), since);
        let events = stream::unfold(state, move |(server, since)| {
            let (resource, namespace) = (resource.clone(), namespace.clone());
            async move {
                loop {
                    let notify = server.changed.clone();
                    let changed = notify.notified();
                    tokio::pin!(changed);
                    changed.as_mut().enable();
                    let (lines, last) = server.store.lock().lines(&resource, &namespace, since, only_metadata);
                    if !lines.is_empty() {
                        return Some((Ok::<_, Infallible>(Bytes::from(lines)), (server, last)));
                    }
                    changed.await;
                }
            }
        });
        Response::new(Body::from_stream(events.boxed()))
    }
}

impl Store {
    /// What a watch is sent, and up to which version that is.
    fn lines(&self, resource: &str, namespace: &str, since: u64, only_metadata: bool) -> (String, u64) {
        let from = self.changes.partition_point(|(version, ..)| *version <= since);
        let (mut lines, mut last) = (String::new(), since);
        for (version, kind, (of, within, _), object) in &self.changes[from..] {
            if *of == resource && (namespace.is_empty() || *within == namespace) {
                let object = if only_metadata {
                    metadata_of(object)
                } else {
                    object.clone()
                };
                lines += &json!({ "type": kind, "object": object }).to_string();
                lines.push('\n');
                last = *version;
            }
        }
        (lines, last)
    }

    fn put(&mut self, key: Key, mut object: Value) {
        let gone = !object["metadata"]["deletionTimestamp"].is_null()
            && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if self.objects.get(&key) == Some(&object) {
            return;
        }
        if gone {
            self.remove(&key);
            return;
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let kind = if self.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.changes.push((self.version, kind, key.clone(), object.clone()));
        self.objects.insert(key, object);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(mut object) = self.objects.remove(key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.changes.push((self.version, "DELETED", key.clone(), object));
        }
    }

    fn carry_out(&mut self, method: &Method, path: &str, body: &[u8]) -> Result<Value, Refused> {
        if path == "/apis/millrace.dev/v1alpha1" {
            let mut verbs = vec!["delete", "get", "list", "watch"];
            if self.creatable {
                verbs.push("create");
            }
            let topics =
                json!({"name": "topics", "singularName": "topic", "namespaced": true, "kind": "Topic", "verbs": verbs});
            return Ok(json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "millrace.dev/v1alpha1",
                "resources": [topics],
            }));
        }
        let (resource, namespace, name, sub) = parse(path);
        let missing = || Refused(StatusCode::NOT_FOUND, "NotFound", format!("{path} not found"));
        if *method == Method::POST {
            let mut object: Value = serde_json::from_slice(body).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            self.uids += 1;
            object["metadata"]["uid"] = format!("uid-{}", self.uids).into();
            let key = (resource, namespace, name);
            self.put(key.clone(), object);
            return self.objects.get(&key).cloned().ok_or_else(missing);
        }
        if name.is_empty() {
            let items: Vec<&Value> = self
                .objects
                .iter()
                .filter(|((of, within, _), _)| *of == resource && (namespace.is_empty() || *within == namespace))
                .map(|(_, object)| object)
                .collect();
            return Ok(json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
            }));
        }
        let key = (resource, namespace, name);
        let known = self.objects.get(&key).cloned().ok_or_else(missing)?;
        if *method == Method::GET {
            return Ok(known);
        }
        assert_eq!(*method, Method::PATCH, "{path}");
        let patch: Value = serde_json::from_slice(body).unwrap();
        if let Some(version) = patch["metadata"].get("resourceVersion")
            && *version != known["metadata"]["resourceVersion"]
        {
            let message = "the object has been modified; please apply your changes to the latest version";
            return Err(Refused(StatusCode::CONFLICT, "Conflict", message.into()));
        }
        let deleting = !known["metadata"]["deletionTimestamp"].is_null();
        let finalizers = |object: &Value| {
            let all = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut changed = known.clone();
        if sub == "status" {
            merge(&mut changed["status"], &patch["status"]);
        } else {
            merge(&mut changed, &patch);
            changed["status"] = known["status"].clone();
            let had = finalizers(&known);
            if deleting && finalizers(&changed).iter().any(|one| !had.contains(one)) {
                let message = "no new finalizers can be added if the object is being deleted";
                return Err(Refused(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message.into()));
            }
        }
        if changed["status"].is_null() {
            changed.as_object_mut().unwrap().remove("status");
        }
        self.put(key.clone(), changed.clone());
        Ok(self.objects.get(&key).cloned().unwrap_or(changed))
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Resource, namespace, name and subresource of a path.
fn parse(path: &str) -> (String, String, String, String) {
    let mut parts = path.trim_start_matches('/').split('/');
    // /api/v1/… or /apis/GROUP/VERSION/…
    if parts.next() == Some("apis") {
        parts.next();
    }
    parts.next();
    let mut rest: Vec<&str> = parts.collect();
    let namespace = if rest.len() > 2 && rest[0] == "namespaces" {
        let namespace = rest[1].to_owned();
        rest.drain(..2);
        namespace
    } else {
        String::new()
    };
    let at = |index: usize| rest.get(index).map_or_else(String::new, |part| (*part).to_owned());
    (at(0), namespace, at(1), at(2))
}

fn metadata_of(value: &Value) -> Value {
    if let Some(items) = value.get("items").and_then(Value::as_array) {
        let items: Vec<Value> = items.iter().map(metadata_of).collect();
        return json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": value["metadata"], "items": items,
        });
    }
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"] })
}

fn error(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    });
    Response::builder()
        .status(code)
        .body(Body::from(status.to_string()))
        .unwrap()
}

#[derive(Clone)]
struct Service(ApiServer);

impl tower::Service<Request<kube::client::Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move { Ok(server.answer(request).await) })
    }
}
