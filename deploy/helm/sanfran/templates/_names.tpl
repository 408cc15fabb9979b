{{/* The prefix of every object's name: the release's name, which says sanfran. */}}
{{- define "sanfran.fullname" -}}
{{- if contains "sanfran" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-sanfran" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* Labels of an object. Called with (dict "root" $ "component" "gateway"). */}}
{{- define "sanfran.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: sanfran
{{ include "sanfran.selector" . }}
{{- end -}}

{{/* Labels that select a component's pods. */}}
{{- define "sanfran.selector" -}}
app.kubernetes.io/name: sanfran
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "sanfran.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* host:port of the control plane's gRPC services. */}}
{{- define "sanfran.controlPlaneAddress" -}}
{{ include "sanfran.fullname" . }}-control-plane.{{ .Release.Namespace }}.svc:7443
{{- end -}}

{{/* The identity of an agent or a gateway: a projected token that only SanFran
     accepts, and the CA certificate the control plane publishes. */}}
{{- define "sanfran.identityVolume" -}}
- name: identity
  projected:
    sources:
      - serviceAccountToken:
          audience: sanfran
          expirationSeconds: 3600
          path: token
      - configMap:
          name: {{ include "sanfran.fullname" . }}-ca
          items:
            - {key: ca.crt, path: ca.crt}
{{- end -}}

{{/* Keeps SanFran's own pods off virtual nodes. */}}
{{- define "sanfran.realNodes" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: type, operator: NotIn, values: [virtual-kubelet]}
{{- end -}}

{{/* The ranges of function pods' addresses. */}}
{{- define "sanfran.podCIDRs" -}}
{{ .Values.virtualNode.podCIDR }}{{ with .Values.virtualNode.podCIDRv6 }},{{ . }}{{ end }}
{{- end }}
