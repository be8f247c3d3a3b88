{{/* Names leave room for the suffixes of components and pools in the 63 characters of a label. */}}
{{- define "stitchwork.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The labels that select a component's pods. Input: root, component, pool (optional). */}}
{{- define "stitchwork.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
stitchwork/pool: {{ . }}
{{- end }}
{{- end -}}

{{/* All labels of a component's objects. Input: as above. */}}
{{- define "stitchwork.labels" -}}
{{ include "stitchwork.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "stitchwork.serviceAccount" -}}
{{- $default := ternary (include "stitchwork.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{/* The reference of an image of the service. Input: root, name. */}}
{{- define "stitchwork.image" -}}
{{- $images := .root.Values.images -}}
{{- $name := .name -}}
{{- if $images.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $images.registry) $name }}{{ end -}}
{{- if contains "@" $name }}{{ $name }}{{ else }}{{ $name }}:{{ default .root.Chart.AppVersion $images.tag }}{{ end -}}
{{- end -}}

{{/*
Write a mapping over another, in place. Unlike mergeOverwrite it also writes false and 0.
Input: a list of the target and the source.
*/}}
{{- define "stitchwork.overlay" -}}
{{- $target := index . 0 -}}
{{- range $key, $value := index . 1 -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $target $key)) -}}
{{- include "stitchwork.overlay" (list (get $target $key) $value) -}}
{{- else -}}
{{- $_ := set $target $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The values of one pool of workers, as JSON. Input: root, pool (its name). */}}
{{- define "stitchwork.pool" -}}
{{- $values := deepCopy .root.Values.worker -}}
{{- include "stitchwork.overlay" (list $values (default dict (get .root.Values.pools .pool))) -}}
{{- $settings := deepCopy .root.Values.settings -}}
{{- include "stitchwork.overlay" (list $settings $values.settings) -}}
{{- $_ := set $values "settings" $settings -}}
{{- $values | toJson -}}
{{- end -}}

{{/* The settings of the APIs, as JSON. */}}
{{- define "stitchwork.apiSettings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- include "stitchwork.overlay" (list $settings .Values.api.settings) -}}
{{- $settings | toJson -}}
{{- end -}}

{{/* The text of a setting, as its environment variable expects it. */}}
{{- define "stitchwork.settingText" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%v" $key $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- /* Helm reads numbers as floats, which would be written as 2.68435456e+08. */ -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* Environment variables of settings. Input: their values by name. */}}
{{- define "stitchwork.settingsEnv" -}}
{{- range $name, $value := . }}
- name: STITCHWORK_{{ upper $name }}
  value: {{ include "stitchwork.settingText" $value | quote }}
{{- end }}
{{- end -}}

{{/* Environment variables that name the registry and queue servers. */}}
{{- define "stitchwork.serversEnv" -}}
{{- if .Values.valkey.enabled }}
{{- $name := include "stitchwork.fullname" . }}
{{- $login := "" }}
{{- if .Values.valkey.passwordSecret }}
{{- $login = ":$(VALKEY_PASSWORD)@" }}
{{ include "stitchwork.passwordEnv" . }}
{{- end }}
- name: STITCHWORK_REDIS_URL
  value: {{ printf "redis://%s%s-registry:6379/0" $login $name | quote }}
- name: STITCHWORK_QUEUE_URL
  value: {{ printf "redis://%s%s-queue:6379/0" $login $name | quote }}
{{- else if .Values.redis.existingSecret }}
- name: STITCHWORK_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: redis-url}
- name: STITCHWORK_QUEUE_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: queue-url, optional: true}
{{- else }}
- name: STITCHWORK_REDIS_URL
  value: {{ .Values.redis.url | quote }}
{{- with .Values.redis.queueUrl }}
- name: STITCHWORK_QUEUE_URL
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The ports of servers outside of this chart, as a JSON list: those that URLs name, and those of a Secret's. */}}
{{- define "stitchwork.serverPorts" -}}
{{- $ports := .Values.networkPolicy.redisPorts -}}
{{- range $url := regexSplit "\\s+" (printf "%s %s" .Values.redis.url .Values.redis.queueUrl) -1 | compact -}}
{{- $default := ternary 26379 6379 (hasPrefix "sentinel" $url) -}}
{{- $hosts := regexReplaceAll "^[a-z]+://([^/?]*@)?([^/?]*).*$" $url "${2}" -}}
{{- range $host := splitList "," $hosts -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" -}}
{{- $ports = append $ports (ternary (int $port) $default (ne $port "")) -}}
{{- end -}}
{{- end -}}
{{- $numbers := list -}}
{{- range $ports }}{{ $numbers = append $numbers (int .) }}{{ end -}}
{{- $numbers | uniq | toJson -}}
{{- end -}}

{{- define "stitchwork.passwordEnv" -}}
- name: VALKEY_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.valkey.passwordSecret }}, key: {{ .Values.valkey.passwordEntry }}}
{{- end -}}

{{/* What all pods have. Input: root. */}}
{{- define "stitchwork.podSpec" -}}
# Links set variables such as STITCHWORK_API_PORT, which look like settings.
enableServiceLinks: false
automountServiceAccountToken: false
serviceAccountName: {{ include "stitchwork.serviceAccount" . }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where pods may run. Input: the values of a component. */}}
{{- define "stitchwork.placement" -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" }}
{{- with get $ $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "stitchwork.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}
