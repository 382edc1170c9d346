{{/* Names are the release's name and a part's: with the release `flywheel`, flywheel-serving. Each helper takes (dict "root" $ "part" "serving"). */}}
{{- define "flywheel.name" -}}
{{ .root.Release.Name | trunc 40 | trimSuffix "-" }}-{{ .part }}
{{- end }}

{{- define "flywheel.selector" -}}
app.kubernetes.io/name: flywheel
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "flywheel.labels" -}}
{{ include "flywheel.selector" . }}
app.kubernetes.io/part-of: flywheel
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The image of a family: (dict "root" $ "family" "serving"). */}}
{{- define "flywheel.image" -}}
{{- $image := .root.Values.image -}}
{{ $image.registry }}/flywheel/{{ .family }}{{ with get $image.digests .family }}@{{ . }}{{ else }}:{{ $image.tag }}{{ end }}
{{- end }}

{{/* What each container of ours has: (dict "root" $ "family" "serving"). */}}
{{- define "flywheel.container" -}}
image: {{ include "flywheel.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Pod Security's profile "restricted", and no token of the API server. */}}
{{- define "flywheel.secure" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where a part's pods may run: apart from each other where that is possible. (dict "root" $ "part" "serving" "values" .Values.serving) */}}
{{- define "flywheel.placed" -}}
topologySpreadConstraints:
  {{- range tuple "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "flywheel.selector" $ | nindent 8 }}
  {{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Metadata of a part's pods; they are made anew when the environment changes. */}}
{{- define "flywheel.podMetadata" -}}
labels:
  {{- include "flywheel.labels" . | nindent 2 }}
annotations:
  checksum/environment: {{ include (print .root.Template.BasePath "/environment.yaml") .root | sha256sum }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "flywheel.environment" -}}
envFrom:
  - configMapRef:
      name: {{ include "flywheel.name" (dict "root" .root "part" "environment") }}
{{- end }}

{{- define "flywheel.database" -}}
- name: FLYWHEEL_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .root.Values.database.secret }}, key: url}
{{- end }}

{{/* The store's keys, where pods have no role of the cloud: as variable, volume and mount. */}}
{{- define "flywheel.storeVariable" -}}
{{- if .root.Values.storeSecret }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /etc/flywheel/store/credentials}
{{- end }}
{{- end }}

{{- define "flywheel.storeVolume" -}}
{{- with .root.Values.storeSecret }}
- name: store
  secret: {secretName: {{ . }}}
{{- end }}
{{- end }}

{{- define "flywheel.storeMount" -}}
{{- if .root.Values.storeSecret }}
- {name: store, mountPath: /etc/flywheel/store, readOnly: true}
{{- end }}
{{- end }}

{{/* Which S3: the one of a region, or one at an address. */}}
{{- define "flywheel.aws" -}}
{{- with .Values.aws.region }}
AWS_REGION: {{ . | quote }}
AWS_DEFAULT_REGION: {{ . | quote }}
{{- end }}
{{- with .Values.aws.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- end }}

{{/* A pause before SIGTERM, for those that have no drain of their own: until no proxy sends them anything. */}}
{{- define "flywheel.preStop" -}}
lifecycle:
  preStop:
    exec: {command: [sleep, "5"]}
{{- end }}

{{- define "flywheel.mlflowUrl" -}}
{{- if .Values.mlflow.enabled -}}
http://{{ include "flywheel.name" (dict "root" . "part" "mlflow") }}:5000
{{- else -}}
{{ required "mlflow.url is needed where mlflow.enabled is false: the address of your MLflow" .Values.mlflow.url }}
{{- end }}
{{- end }}

{{/* A Service, and how many of its pods may be away at once: (dict "root" $ "part" "serving" "port" 8000 "values" .Values.serving). */}}
{{- define "flywheel.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "flywheel.name" . }}
  labels:
    {{- include "flywheel.labels" . | nindent 4 }}
spec:
  selector:
    {{- include "flywheel.selector" . | nindent 4 }}
  ports:
    - {name: http, port: {{ .port }}, targetPort: http, protocol: TCP}
{{- end }}

{{- define "flywheel.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "flywheel.name" . }}
  labels:
    {{- include "flywheel.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .values.disruption.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "flywheel.selector" . | nindent 6 }}
{{- end }}

{{- define "flywheel.metadata" -}}
name: {{ include "flywheel.name" . }}
labels:
  {{- include "flywheel.labels" . | nindent 2 }}
{{- end }}
