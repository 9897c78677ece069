# simple_captcha2 as Debian packages it, without Rails.  A line of JSON in, a line of JSON out.

require 'base64'
require 'json'
require 'active_support'
require 'active_support/core_ext/module/attribute_accessors'
require 'active_support/core_ext/object/blank'

# The library asks Rails for one thing, as it is loaded: whether this is a test.
module Rails
  def self.env
    Struct.new(:test?).new(false)
  end
end

$LOAD_PATH.unshift('/usr/lib/ruby/vendor_ruby')
$VERBOSE = nil
module SimpleCaptcha
  # Stands for the table of codes: the key is the text.
  class SimpleCaptchaData
    def self.get_data(key)
      Struct.new(:value).new(key)
    end
  end

  class Engine; end
end
$LOADED_FEATURES << '/usr/lib/ruby/vendor_ruby/simple_captcha/engine.rb'
require 'simple_captcha'

class Drawer
  include SimpleCaptcha::ImageHelpers

  def draw(text)
    generate_simple_captcha_image(text)
  end
end

$stdin.each_line do |line|
  request = JSON.parse(line)
  settings = request['settings']
  srand(request['seed'])
  SimpleCaptcha.image_size = settings['size'] || '100x28'
  SimpleCaptcha.image_style = settings['style'] || 'simply_blue'
  SimpleCaptcha.distortion = settings['distortion'] || 'low'
  SimpleCaptcha.implode = settings['implode'] || 'medium'
  SimpleCaptcha.noise = settings['noise'] || 0
  SimpleCaptcha.font = settings['face'] ? "'#{settings['face']}'" : ''
  if settings['parameters']
    SimpleCaptcha.add_image_style('own', settings['parameters'].dup)
    SimpleCaptcha.image_style = 'own'
  end
  text = settings['text'] || Array.new(settings['length'] || 5) { rand(65..90).chr }.join
  begin
    reply = { image: Base64.strict_encode64(Drawer.new.draw(text).b), label: text }
  rescue StandardError => error
    reply = { error: error.message }
  end
  $stdout.puts(JSON.generate(reply))
  $stdout.flush
end
