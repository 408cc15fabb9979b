package provider

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// caKeyField, caCertField and caBundleField are the keys of the CA's objects.
const (
	caKeyField    = corev1.TLSPrivateKeyKey
	caCertField   = corev1.TLSCertKey
	caBundleField = "ca.crt"
)

// CAStore keeps SanFran's own certificate authority in a Secret and its public
// half in a ConfigMap, which agents and gateways mount. Both belong to the
// StatefulSet, so that they go with it.
type CAStore struct {
	client            kubernetes.Interface
	namespace         string
	secret, configMap string
	statefulSet       string
}

// CAStore returns the store of the two objects of those names in the control
// plane's namespace. An empty statefulSet leaves them without an owner.
func (c *Cluster) CAStore(secret, configMap, statefulSet string) *CAStore {
	return &CAStore{client: c.account, namespace: c.config.Namespace, secret: secret, configMap: configMap, statefulSet: statefulSet}
}

// LoadOrCreateCA returns the stored pair, PEM-encoded. When there is none it
// stores what create returns; of several that do so at once one wins, and all
// return that one's.
func (s *CAStore) LoadOrCreateCA(ctx context.Context, create func() (certPEM, keyPEM []byte, err error)) (certPEM, keyPEM []byte, err error) {
	secrets := s.client.CoreV1().Secrets(s.namespace)
	held, err := secrets.Get(ctx, s.secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		held, err = s.create(ctx, create)
		if apierrors.IsAlreadyExists(err) {
			held, err = secrets.Get(ctx, s.secret, metav1.GetOptions{})
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the authority's Secret %s/%s: %w", s.namespace, s.secret, err)
	}
	certPEM, keyPEM = held.Data[caCertField], held.Data[caKeyField]
	if len(certPEM) == 0 || len(keyPEM) == 0 {
		return nil, nil, fmt.Errorf("the Secret %s/%s holds no %s and %s: delete it and restart the control plane to make another authority", s.namespace, s.secret, caCertField, caKeyField)
	}
	if err := s.publish(ctx, string(certPEM)); err != nil {
		return nil, nil, fmt.Errorf("publish the authority in ConfigMap %s/%s: %w", s.namespace, s.configMap, err)
	}
	return certPEM, keyPEM, nil
}

func (s *CAStore) create(ctx context.Context, create func() (certPEM, keyPEM []byte, err error)) (*corev1.Secret, error) {
	certPEM, keyPEM, err := create()
	if err != nil {
		return nil, err
	}
	meta, err := s.meta(ctx, s.secret)
	if err != nil {
		return nil, err
	}
	return s.client.CoreV1().Secrets(s.namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: meta,
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{caCertField: certPEM, caKeyField: keyPEM},
	}, metav1.CreateOptions{})
}

// publish writes the certificate where it is not there yet.
func (s *CAStore) publish(ctx context.Context, certPEM string) error {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	held, err := maps.Get(ctx, s.configMap, metav1.GetOptions{})
	if err == nil && held.Data[caBundleField] == certPEM {
		return nil
	}
	if err == nil {
		held = held.DeepCopy()
		held.Data = map[string]string{caBundleField: certPEM}
		_, err = maps.Update(ctx, held, metav1.UpdateOptions{})
	} else if apierrors.IsNotFound(err) {
		meta, metaErr := s.meta(ctx, s.configMap)
		if metaErr != nil {
			return metaErr
		}
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{caBundleField: certPEM}}, metav1.CreateOptions{})
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil // another replica, which has the same certificate
	}
	return err
}

func (s *CAStore) meta(ctx context.Context, name string) (metav1.ObjectMeta, error) {
	owners, err := ownedByStatefulSet(ctx, s.client, s.namespace, s.statefulSet)
	return metav1.ObjectMeta{Name: name, OwnerReferences: owners}, err
}

// ownedByStatefulSet are the owner references of what goes with it.
func ownedByStatefulSet(ctx context.Context, client kubernetes.Interface, namespace, name string) ([]metav1.OwnerReference, error) {
	if name == "" {
		return nil, nil
	}
	set, err := client.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the StatefulSet %s/%s that owns it: %w", namespace, name, err)
	}
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set.Name, UID: set.UID}}, nil
}
