// Command kube is a real Kubernetes in one executable, for tests: it runs as the program that its own file is named
// after, or as the one that its first argument names. One executable instead of nine is linked once and lies in the
// page cache once.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	"github.com/containerd/containerd/v2/cmd/containerd/command"
	ctr "github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs are the names that the executable answers to; each ends the process by itself or returns an error.
var programs = map[string]func() error{
	"etcd":                    func() error { etcdmain.Main(os.Args); return nil },
	"kube-apiserver":          func() error { return run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": controllerManager,
	"kube-scheduler":          func() error { return run(scheduler.NewSchedulerCommand()) },
	"kubelet":                 func() error { return run(kubelet.NewKubeletCommand(context.Background())) },
	"kube-proxy":              func() error { return run(proxy.NewProxyCommand()) },
	"kubectl":                 func() error { return run(kubectl.NewDefaultKubectlCommand()) },
	"coredns":                 coreDNS,
	"containerd":              func() error { return command.App().Run(os.Args) },
	"ctr":                     func() error { return ctr.New().Run(os.Args) },
}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if name == "kube" && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	program, known := programs[name]
	if !known {
		fmt.Fprintf(os.Stderr, "usage: kube %s ...\n", strings.Join(names(), "|"))
		os.Exit(2)
	}
	os.Args = append([]string{name}, args...)
	if err := program(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run executes one of Kubernetes' own commands, which tell their errors themselves.
func run(command *cobra.Command) error {
	os.Exit(cli.Run(command))
	return nil
}

// controllerManager makes volumes that all pods may write to.
func controllerManager() error {
	if err := openVolumes(); err != nil {
		return err
	}
	return run(controllermanager.NewControllerManagerCommand())
}

// coreDNS serves with the plugins that are compiled in, in the order in which they see a request.
func coreDNS() error {
	dnsserver.Directives = []string{"bind", "errors", "cache", "kubernetes"}
	coremain.Run()
	return nil
}

func names() []string {
	all := make([]string, 0, len(programs))
	for name := range programs {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}
