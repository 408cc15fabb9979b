package attacks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The two tenants. Each has a namespace of its own.
const (
	Attacker = "attacker"
	Victim   = "victim"
)

// Installation is where functions run.
type Installation interface {
	// Deploy makes a function pod of the bundle and returns its address (host:port)
	// when it is ready.
	Deploy(ctx context.Context, f Function) (string, error)
	// Remove deletes a function pod and returns when it is gone.
	Remove(ctx context.Context, tenant, name string) error
	// Get asks a function as any client of its does. It returns whatever the
	// answer is; an error means that there was none.
	Get(ctx context.Context, tenant, name, path string) (status int, body []byte, err error)
	// Outside is what who is no function is answered at an address (host:port),
	// "" for nothing.
	Outside(ctx context.Context, address string) string
}

// Function is a pod to be made.
type Function struct {
	Tenant, Name string // of whose namespace
	// Idle: it is parked after a second or two without requests.
	Idle bool
	// Secret, if there is one, it has in a file of a bundle at /own, with "-bundle"
	// behind it, and of a Secret at /etc/secret, with "-secret"; and it has an emptyDir
	// at /data.
	Secret string
}

// Facts is what an attacker may know, be it from an insider. Addresses are
// host:port; an empty one means that the installation has no such thing.
type Facts struct {
	Self       string            `json:"self"`    // its own pod's
	Victim     string            `json:"victim"`  // the victim's pod's
	Witness    string            `json:"witness"` // who hears the beats of what lives
	Container  string            `json:"container"`
	Socket     string            `json:"socket"` // the victim's listener in the node's network
	Namespaces map[string]string `json:"namespaces"`
	Secret     string            `json:"secret"`

	NodeIP       string `json:"nodeIP"`
	Agent        string `json:"agent"`
	AgentPods    string `json:"agentPods"`
	Kubelet      string `json:"kubelet"`
	OtherKubelet string `json:"otherKubelet"`
	Metadata     string `json:"metadata"`
	NodeService  string `json:"nodeService"`
	Loopback     string `json:"loopback"` // of the node
	Bridge       string `json:"bridge"`
	Beyond       string `json:"beyond"` // what functions and the node may reach
	Unassigned   string `json:"unassigned"`
	Datagrams    string `json:"datagrams"` // of no function, where the node answers by UDP; then Beyond does, too
	Logs         string `json:"logs"`      // the folder on the node
	APIServer    string `json:"apiServer"`

	// Of one attack; Port is one of the node's that nobody listens on.
	Port    string  `json:"port,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Name    string  `json:"name,omitempty"`
}

func (f Facts) has(name string) bool {
	data, err := json.Marshal(f)
	if err != nil {
		return false
	}
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil {
		return false
	}
	value, ok := all[name].(string)
	return ok && value != ""
}

func host(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	return at.Addr().String()
}

// Result is what came of an attack.
type Result struct {
	Attack Attack
	// How it was refused or contained, or why it was not made.
	How string
	// Err is nil where the wall held.
	Err error
	// Skipped: it was not made. Open: it succeeded, as is known.
	Skipped, Open bool
}

// Suite runs attacks on an installation. Its fields are set before Run, and are
// not changed.
type Suite struct {
	Installation Installation
	// Facts are those of the installation; the suite adds those of its functions.
	Facts Facts
	// Only, if it is not empty, is what the names of the attacks made hold.
	Only string
	// Rounds is how often each flood runs beside a neighbour whose answers are
	// measured; 0: once, and the neighbour has to answer, however long it takes.
	Rounds int
	// Report hears each result when it is there.
	Report func(Result)

	started string // the victim's process
	made    int    // attackers so far
	failed  []error
}

// firstPort begins ports that are neither containers', nor NodePorts, nor the
// kernel's to give out.
const firstPort = 19_000

// the names of the functions that stay.
const (
	victimName  = "kept"
	witnessName = "witness"
	reusedName  = "reused"
)

// Run makes every attack and returns an error that joins those of all walls that
// did not hold. What it deployed it has removed.
func (s *Suite) Run(ctx context.Context) (err error) {
	defer func() {
		err = errors.Join(append(s.failed, err)...) // whatever ended it, too
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		for _, f := range [][2]string{{Attacker, reusedName}, {Victim, victimName}, {Victim, witnessName}} {
			err = errors.Join(err, s.Installation.Remove(ctx, f[0], f[1]))
		}
	}()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for _, attack := range s.chosen(List()) {
		if err := s.one(ctx, attack); err != nil {
			return err
		}
	}
	if err := s.leftovers(ctx); err != nil {
		return err
	}
	return s.floods(ctx)
}

func (s *Suite) chosen(list []Attack) []Attack {
	return slices.DeleteFunc(list, func(a Attack) bool { return !strings.Contains(a.Name, s.Only) })
}

// prepare deploys who stays, and has the victim keep a secret.
func (s *Suite) prepare(ctx context.Context) (err error) {
	s.Facts.Secret = rand.Text()
	if s.Facts.Victim, err = s.Installation.Deploy(ctx, Function{Tenant: Victim, Name: victimName, Secret: s.Facts.Secret}); err != nil {
		return err
	}
	if s.Facts.Witness, err = s.Installation.Deploy(ctx, Function{Tenant: Victim, Name: witnessName}); err != nil {
		return err
	}
	if s.Facts.Self, err = s.Installation.Deploy(ctx, Function{Tenant: Attacker, Name: reusedName}); err != nil {
		return err
	}
	var kept struct {
		Container, Socket, Started string
		Namespaces                 map[string]string
	}
	if err := s.ask(ctx, Victim, victimName, "/keep?secret="+s.Facts.Secret, &kept); err != nil {
		return err
	}
	s.started, s.Facts.Container, s.Facts.Socket, s.Facts.Namespaces = kept.Started, kept.Container, kept.Socket, kept.Namespaces
	// What follows would prove nothing if functions reached nobody at all.
	if s.Facts.Beyond == "" {
		return nil
	}
	ways := []string{"network/beyond"}
	if s.Facts.Datagrams != "" {
		ways = append(ways, "network/beyond-udp")
	}
	for _, way := range ways {
		if got := s.attack(ctx, reusedName, Attack{Name: way}, s.Facts); !got.succeeded() {
			return fmt.Errorf("a function does not reach %s, as it should: %s: %s %s%s", s.Facts.Beyond, way, got.Code, got.How, got.Broken)
		}
	}
	return nil
}

// ask reads the JSON that a function answers.
func (s *Suite) ask(ctx context.Context, tenant, name, path string, into any) error {
	status, body, err := s.Installation.Get(ctx, tenant, name, path)
	if err != nil {
		return fmt.Errorf("ask %s for %.40s: %w", name, path, err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("ask %s for %.40s: HTTP %d %.200s", name, path, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("ask %s for %.40s: %w: %.200s", name, path, err, body)
	}
	return nil
}

// answer is what the function says of an attack, or what its client heard
// instead.
type answer struct {
	Attack  string
	Refused bool
	Code    string
	How     string
	Broken  string
	silent  bool // the function did not answer by itself
}

func (a answer) succeeded() bool { return !a.Refused && a.Broken == "" && !a.silent }

func (s *Suite) attack(ctx context.Context, name string, a Attack, facts Facts) answer {
	return s.attackBy(ctx, Attacker, name, a, facts)
}

func (s *Suite) attackBy(ctx context.Context, tenant, name string, a Attack, facts Facts) answer {
	data, err := json.Marshal(facts)
	if err != nil {
		return answer{Broken: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	status, body, err := s.Installation.Get(ctx, tenant, name, "/"+a.Name+"?facts="+url.QueryEscape(string(data)))
	if err != nil {
		return answer{silent: true, How: "its client: " + err.Error()}
	}
	var got answer
	if json.Unmarshal(body, &got) != nil || got.Attack != a.Name {
		return answer{silent: true, How: fmt.Sprintf("its client: HTTP %d %.120s", status, body)}
	}
	return got
}

// judge says what an answer means.
func judge(a Attack, got answer) Result {
	r := Result{Attack: a, How: got.How}
	contained := a.Open == "" && (a.Refusals == "" || a.family() == "floods")
	switch {
	case got.Broken != "":
		r.Err = fmt.Errorf("%s could not be made: %s", a.Name, got.Broken)
	case a.Open != "" && !got.silent:
		if r.Open = !got.Refused; got.Refused {
			r.Err = fmt.Errorf("%s was refused with %s %s: it is open no more, so the list should say what holds it", a.Name, got.Code, got.How)
		}
	case got.Refused:
		r.How = got.Code + " " + got.How
		// Of those that listen, being refused is even better.
		if a.Refusals != "" && !slices.Contains(strings.Fields(a.Refusals), got.Code) {
			r.Err = fmt.Errorf("%s was refused with %s, which is none of %s: is that what it should meet?", a.Name, r.How, a.Refusals)
		}
	case contained:
	case got.silent:
		r.Err = fmt.Errorf("%s: no answer of the function: %s", a.Name, got.How)
	default:
		r.Err = fmt.Errorf("%s SUCCEEDED: %s", a.Name, got.How)
	}
	return r
}

// one makes an attack that ends with its answer.
func (s *Suite) one(ctx context.Context, a Attack) error {
	if a.Needs != "" && !s.Facts.has(a.Needs) {
		s.report(Result{Attack: a, Skipped: true, How: "not made: nothing is known of " + a.Needs})
		return ctx.Err()
	}
	if a.Shown {
		if got := s.attackBy(ctx, Victim, victimName, a, s.Facts); !got.succeeded() {
			s.report(Result{Attack: a, Err: fmt.Errorf("%s proves nothing: the victim itself is refused: %s %s%s", a.Name, got.Code, got.How, got.Broken)})
			return ctx.Err()
		}
	}
	if !a.Once {
		s.report(judge(a, s.attack(ctx, reusedName, a, s.Facts)))
		return ctx.Err()
	}
	return s.fresh(ctx, func(name string, facts Facts) error {
		got := s.attack(ctx, name, a, facts)
		r := judge(a, got)
		if r.Err == nil && a.Looks != nil {
			r.How = "listens, heard by nobody"
			for _, address := range a.Looks(facts) {
				if who, err := s.answersAt(ctx, address); err != nil {
					return err
				} else if who != "" {
					r.Err = fmt.Errorf("%s SUCCEEDED: %s is answered by the attacker", a.Name, who)
				}
			}
			if got.Refused {
				r.How = got.Code + " " + got.How
			}
		}
		if r.Err == nil && a.Takes != "" {
			var used struct{ Used, Refused string }
			query := url.Values{"what": {a.Takes}, "self": {facts.Witness}, "port": {facts.Port}}
			if err := s.ask(ctx, Victim, witnessName, "/use?"+query.Encode(), &used); err != nil {
				return err
			}
			// Where nobody gets any nobody takes anything from another.
			taken := used.Used == "" && !strings.HasPrefix(got.How, "holding 0 ")
			switch {
			case a.Open != "" && !taken:
				r.Err = fmt.Errorf("%s (%s) takes nothing from another function, which is not how it is known", a.Name, got.How)
			case a.Open != "":
				r.How += ": another is refused with " + used.Refused
			case taken:
				r.Err = fmt.Errorf("%s SUCCEEDED (%s): another function is refused with %s", a.Name, got.How, used.Refused)
			case !got.silent && len(strings.Fields(got.How)) != 3: // holding, how many, the code
				// Nothing says that there is a limit, on a node with more of it.
				r.Err = fmt.Errorf("%s SUCCEEDED (%s): it met no limit", a.Name, got.How)
			}
		}
		s.report(s.beside(ctx, r))
		return nil
	})
}

// answersAt says who is answered by the attacker at an address.
func (s *Suite) answersAt(ctx context.Context, address string) (string, error) {
	const stolen = "stolen" // as native.c answers
	if s.Installation.Outside(ctx, address) == stolen {
		return "who asks from outside for " + address, nil
	}
	var got struct{ Answer string }
	if err := s.ask(ctx, Victim, witnessName, "/ask?address="+address, &got); err != nil {
		return "", err
	}
	if got.Answer == stolen {
		return "a function that asks for " + address, nil
	}
	return "", nil
}

// fresh has an attacker of its own for an attack.
func (s *Suite) fresh(ctx context.Context, attack func(name string, facts Facts) error) error {
	s.made++
	name := fmt.Sprintf("once-%d", s.made)
	facts := s.Facts
	// The attacker before may still be going, with its port.
	facts.Port = strconv.Itoa(firstPort + s.made)
	var err error
	if facts.Self, err = s.Installation.Deploy(ctx, Function{Tenant: Attacker, Name: name}); err != nil {
		return err
	}
	err = attack(name, facts)
	return errors.Join(err, s.Installation.Remove(context.WithoutCancel(ctx), Attacker, name), ctx.Err())
}

// beside fails a result if the victim is not as it was.
func (s *Suite) beside(ctx context.Context, r Result) Result {
	var now struct {
		Intact  bool
		Started string
	}
	err := s.ask(ctx, Victim, victimName, "/intact?secret="+s.Facts.Secret, &now)
	switch {
	case err != nil:
		err = fmt.Errorf("%s: the victim does not answer: %w", r.Attack.Name, err)
	case !now.Intact:
		err = fmt.Errorf("%s: the victim is not as it was", r.Attack.Name)
	case now.Started != s.started:
		err = fmt.Errorf("%s: the victim's container is another one", r.Attack.Name)
	}
	r.Err = errors.Join(r.Err, err)
	return r
}

func (s *Suite) report(r Result) {
	if r.Err != nil {
		s.failed = append(s.failed, r.Err)
	}
	if s.Report != nil {
		s.Report(r)
	}
}
