package main

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestVolumeForClaim(t *testing.T) {
	class := "local-path"
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "u1"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	retain := corev1.PersistentVolumeReclaimRetain
	for _, policy := range []*corev1.PersistentVolumeReclaimPolicy{nil, &retain} {
		volume := volumeFor(claim, "node-1", policy, "/volumes")
		want := corev1.PersistentVolumeReclaimDelete
		if policy != nil {
			want = *policy
		}
		if volume.Name != "pvc-u1" || volume.Spec.Local.Path != "/volumes/pvc-u1" || volume.Spec.PersistentVolumeReclaimPolicy != want {
			t.Errorf("volume %s in %s, reclaimed by %s", volume.Name, volume.Spec.Local.Path, volume.Spec.PersistentVolumeReclaimPolicy)
		}
		if ref := volume.Spec.ClaimRef; ref.UID != claim.UID || ref.Namespace != "ns" || ref.Name != "data" {
			t.Errorf("the volume is for %+v", ref)
		}
		term := volume.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]
		if term.Key != corev1.LabelHostname || term.Values[0] != "node-1" {
			t.Errorf("the volume may be used on %+v", term)
		}
		if size := volume.Spec.Capacity[corev1.ResourceStorage]; size.String() != "1Gi" {
			t.Errorf("the volume has %s", size.String())
		}
	}
}
