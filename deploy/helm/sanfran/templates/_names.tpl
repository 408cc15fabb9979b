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

{{/* Annotations of a pod whose metrics Prometheus is to find, or nothing. Called with
     (dict "root" $ "port" 8081). */}}
{{- define "sanfran.scrape" -}}
{{- if .root.Values.metrics.scrapeAnnotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

{{/* The gateway's further environment. Its GODEBUG has what the chart needs, too:
     http2xconnect=1 makes Go serve WebSockets on HTTP/2 (RFC 8441). */}}
{{- define "sanfran.gatewayEnv" -}}
{{- $own := "http2xconnect=1" -}}
{{- $env := list -}}
{{- $said := false -}}
{{- range .Values.gateway.env -}}
{{- if eq .name "GODEBUG" -}}
{{- $said = true -}}
{{- if .valueFrom -}}
{{- fail (printf "gateway.env: give GODEBUG a value in place of valueFrom; the chart adds %s to it" $own) -}}
{{- end -}}
{{- if not (contains "http2xconnect=" (.value | default "")) -}}
{{- $env = append $env (dict "name" .name "value" (join "," (compact (list $own .value)))) -}}
{{- else -}}
{{- $env = append $env . -}}
{{- end -}}
{{- else -}}
{{- $env = append $env . -}}
{{- end -}}
{{- end -}}
{{- if not $said -}}
{{- $env = prepend $env (dict "name" "GODEBUG" "value" $own) -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{/* The ranges of function pods' addresses. */}}
{{- define "sanfran.podCIDRs" -}}
{{ .Values.virtualNode.podCIDR }}{{ with .Values.virtualNode.podCIDRv6 }},{{ . }}{{ end }}
{{- end }}
