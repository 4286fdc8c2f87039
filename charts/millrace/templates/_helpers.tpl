{{/*
The name in labels. Not "millrace": that is what brokers have, and a Cluster may be called as the release is. What selects
the operator's pods must never select brokers.
*/}}
{{- define "millrace.name" -}}
{{- default "millrace-operator" .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
The objects' name. The release's name alone is not enough: for a Cluster of that name the operator makes objects of that
name, and it must share none with the chart. 52 characters leave room for suffixes.
*/}}
{{- define "millrace.fullname" -}}
{{- $name := include "millrace.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else if hasPrefix (printf "%s-" .Release.Name) $name -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of what belongs to no namespace: releases of one name in two namespaces must not meet there. */}}
{{- define "millrace.clusterName" -}}
{{- printf "%s:%s" (include "millrace.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* Labels by which the operator's pods are selected. They can never change: a Deployment's selector is immutable. */}}
{{- define "millrace.selectorLabels" -}}
app.kubernetes.io/name: {{ include "millrace.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "millrace.sharedLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: millrace
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "millrace.labels" -}}
{{ include "millrace.selectorLabels" . }}
app.kubernetes.io/component: operator
{{ include "millrace.sharedLabels" . }}
{{- end -}}

{{/*
Labels of a hook's objects: (list $ "component"). Another name than the operator's: its pods must not be taken for operators
by the Service, the disruption budget or the network policy.
*/}}
{{- define "millrace.hookLabels" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
app.kubernetes.io/name: {{ printf "%s-%s" (include "millrace.name" $root | trunc 50) $component }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ $component }}
{{ include "millrace.sharedLabels" $root }}
{{- end -}}

{{- define "millrace.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "millrace.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "millrace.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Who is meant by --watch-namespaces; nothing for all. */}}
{{- define "millrace.watchArgument" -}}
{{- with .Values.watchNamespaces -}}
- {{ printf "--watch-namespaces=%s" (join "," .) }}
{{- end -}}
{{- end -}}

{{/* A namespace that the operator looks after: the release's if it does, for examples and `helm test`. */}}
{{- define "millrace.someNamespace" -}}
{{- $watched := .Values.watchNamespaces -}}
{{- if or (not $watched) (has .Release.Namespace $watched) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first $watched -}}
{{- end -}}
{{- end -}}

{{/* What all pods of the chart have in common. */}}
{{- define "millrace.podDefaults" -}}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What all containers of the chart have in common. */}}
{{- define "millrace.containerDefaults" -}}
image: {{ include "millrace.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: ["/usr/local/bin/millrace-operator"]
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Combinations of values that would seem to work. */}}
{{- define "millrace.validate" -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "replicaCount > 1 needs leaderElection.enabled: operators that all act at once undo each other's work" -}}
{{- end -}}
{{- end -}}
