{{- define "reload-agent.selector" -}}
app.kubernetes.io/name: reload-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "reload-agent.labels" -}}
{{ include "reload-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* Names of cluster-wide objects: two releases in two namespaces have two. */ -}}
{{- define "reload-agent.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace .Release.Name | trunc 56 | trimSuffix "-" }}
{{- end }}
